"""What somebody opens a vault with: a passphrase, the contents of a key file, a recovery code, or their account."""

from __future__ import annotations

import unicodedata
from enum import StrEnum

from atedb.crypto.recovery_code import looks_like_code, parse_code
from atedb.errors import LimitError

MAX_SECRET_SIZE = 1 << 20


class SecretKind(StrEnum):
    """The kinds of key slot. A secret is tried on slots of its own kind only."""

    PASSPHRASE = "passphrase"
    KEY_FILE = "key-file"
    RECOVERY = "recovery"
    ACCOUNT = "account"


class Secret:
    """A secret that does not show itself: not in repr, not in a traceback's locals, not in a pickle.

    `wipe` (or the end of a ``with`` block) overwrites the copy held here. Copies that Python or the terminal made on
    the way cannot be reached; memory that was swapped out neither.
    """

    __slots__ = ("_value", "kind")

    def __init__(self, kind: SecretKind, value: bytes) -> None:
        if len(value) > MAX_SECRET_SIZE:
            raise LimitError(
                f"a {kind} of {len(value)} bytes is larger than the {MAX_SECRET_SIZE} allowed; nothing was changed; "
                "use a smaller one"
            )
        self.kind = kind
        self._value = bytearray(value)

    @classmethod
    def passphrase(cls, text: str | bytes) -> Secret:
        """A passphrase, as typed or as read from a file (without its final newline).

        Text is brought to Unicode's NFC form, so that one passphrase typed on two systems is one; bytes that are not
        UTF-8 are taken as they are.
        """
        if isinstance(text, bytes):
            text = text.decode(errors="surrogateescape")
        # Bytes that are not UTF-8 (Python gives a terminal's as surrogates too) go back to what they were.
        return cls(SecretKind.PASSPHRASE, unicodedata.normalize("NFC", text).encode(errors="surrogateescape"))

    @classmethod
    def key_file(cls, content: bytes) -> Secret:
        """The whole content of a key file."""
        return cls(SecretKind.KEY_FILE, content)

    @classmethod
    def recovery_code(cls, text: str) -> Secret:
        """A recovery code as typed. Raises RecoveryCodeError, which names the group that is mistyped."""
        return cls(SecretKind.RECOVERY, parse_code(text).encode("ascii"))

    @classmethod
    def account(cls, key: bytes) -> Secret:
        """What an account's root gives for this: 32 bytes."""
        return cls(SecretKind.ACCOUNT, key)

    @classmethod
    def typed(cls, text: str) -> Secret:
        """What was typed at a prompt that takes either: a recovery code where it looks like one, else a passphrase.

        Raises RecoveryCodeError for what was meant as a recovery code and is mistyped.
        """
        return cls.recovery_code(text) if looks_like_code(text) else cls.passphrase(text)

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"Secret({self.kind})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret is not written anywhere")

    def __enter__(self) -> Secret:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def reveal(self) -> bytes:
        """The bytes, for a key derivation function only. Use the value inside one expression; do not keep it."""
        return bytes(self._value)

    def wipe(self) -> None:
        """Overwrite the copy held here; the secret opens nothing afterwards."""
        self._value[:] = bytes(len(self._value))
        del self._value[:]
