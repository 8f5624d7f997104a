"""The reply to the kernel's INIT, with what pyfuse3 cannot ask for: that modes arrive before the umask has cut them.

A directory with a default access control list takes the place of the umask (man 2 umask), and what the kernel has cut
off a mode cannot be known again. So the vault has to apply the umask, and the kernel must be told so by FUSE_DONT_MASK
in the reply to its first request (linux/fuse.h). pyfuse3 and the library below it write that reply between the call of
`Operations.init` and the next wait for a request. In between, the descriptor leads into a pipe.
"""

from __future__ import annotations

import contextlib
import os
import struct

DONT_MASK = 1 << 6
_HEAD = struct.Struct("=IiQIIII")
"""Length, error, request; then of the reply itself: major, minor, read-ahead, flags."""
_FLAGS = struct.Struct("=I")
_FLAGS_AT = _HEAD.size - _FLAGS.size


class InitReply:
    """On its way from the library to the kernel."""

    def __init__(self) -> None:
        self._descriptor = self._device = self._pipe = self._end = -1
        self._diverted = False

    def waits(self, descriptor: int) -> bool:
        """To be called at each wait for a request, with the descriptor. True: the reply is out; that was the last call.

        Raises OSError.
        """
        if not self._diverted:
            if self._device < 0:
                self._descriptor, self._device = descriptor, os.dup(descriptor)
                self._pipe, self._end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            return False
        os.dup2(self._device, descriptor, inheritable=False)
        try:
            with contextlib.suppress(BlockingIOError):  # the library had no answer
                os.write(self._device, unmasked(os.read(self._pipe, 4096)))
        finally:
            for left in (self._device, self._pipe, self._end):
                os.close(left)
        return True

    def divert(self) -> None:
        """To be called while the request is answered: catch the reply."""
        os.dup2(self._end, self._descriptor, inheritable=False)
        self._diverted = True


def unmasked(reply: bytes) -> bytes:
    """The reply with FUSE_DONT_MASK; as it is when it reports an error."""
    if len(reply) < _HEAD.size or _HEAD.unpack_from(reply)[1]:
        return reply
    (flags,) = _FLAGS.unpack_from(reply, _FLAGS_AT)
    return reply[:_FLAGS_AT] + _FLAGS.pack(flags | DONT_MASK) + reply[_HEAD.size :]
