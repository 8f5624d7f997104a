"""How much one tenant may ask of the node in a second: a token bucket that may be overdrawn once.

Source: the token bucket of RFC 2697, with the difference that a request larger than the bucket is let in when the
bucket is not in debt, and those after it wait until the debt is paid. A frame of any allowed size gets through, so that
a slow tenant is slow and not stuck.
"""

from __future__ import annotations

import trio

from atedb.net.errors import RateError

PATIENCE = 10.0
"""Seconds that a request may wait for its turn."""


class TokenBucket:
    """rate: tokens a second. burst: tokens that have gathered, at most, after a pause."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = trio.current_time()

    def change(self, rate: float, burst: float) -> None:
        """Go on with another rate; what is owed stays owed."""
        self._refill()
        self._rate, self._burst, self._level = rate, burst, min(self._level, burst)

    async def take(self, cost: float) -> None:
        """Wait until what was taken before is paid for, then take `cost`. Whoever asks first is served first.

        Raises RateError, and takes nothing, when that would be later than PATIENCE from now. A wait that is cancelled
        takes nothing either.
        """
        self._refill()
        wait = max(0.0, -self._level) / self._rate
        if wait > PATIENCE:
            raise RateError(
                f"the tenant's rate on this server is used up for {wait:.0f} s; nothing was done; try again then"
            )
        self._level -= cost
        try:
            await trio.sleep(wait)
        except trio.Cancelled:
            self._level += cost
            raise

    def charge(self, cost: float) -> None:
        """Take `cost` for what was done already, such as an answer; whoever comes next waits for it."""
        self._refill()
        self._level -= cost

    def _refill(self) -> None:
        now = trio.current_time()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
