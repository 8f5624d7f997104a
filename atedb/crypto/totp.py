"""The second factor: codes of six digits that change every 30 seconds. Source: RFC 6238 (TOTP), with SHA-1."""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from atedb.crypto.aead import random_bytes

TOTP_SECRET_SIZE: Final = 20
TOTP_DIGITS: Final = 6
STEP_SECONDS: Final = 30
_EARLIER, _LATER = 1, 1
"""Steps by which the two clocks may differ (RFC 6238, section 5.2)."""


def new_totp_secret() -> bytes:
    """20 random bytes, as RFC 4226 recommends."""
    return random_bytes(TOTP_SECRET_SIZE)


def totp_uri(secret: bytes, account: str, issuer: str) -> str:
    """What authenticators read from a QR code: `otpauth://totp/…`."""
    return _totp(secret).get_provisioning_uri(account, issuer)


def totp_code(secret: bytes, now: float) -> str:
    """The code at a time, in seconds since 1970."""
    return _totp(secret).generate(int(now)).decode("ascii")


def accepted_step(secret: bytes, code: str, now: float, after: int) -> int | None:
    """The step whose code this is; None if it is of no step near `now`, or of one that is not later than `after`.

    Whoever accepts a code keeps its step, and accepts none of that or an earlier one again.
    """
    step = int(now) // STEP_SECONDS
    found = None
    for candidate in range(step - _EARLIER, step + _LATER + 1):
        right = totp_code(secret, candidate * STEP_SECONDS)
        if hmac.compare_digest(right.encode(), code.encode()) and candidate > after:
            found = candidate
    return found


def _totp(secret: bytes) -> TOTP:
    return TOTP(secret, TOTP_DIGITS, SHA1(), STEP_SECONDS)  # SHA-1 is what all authenticators have
