"""The kernel is told that the vault applies the umask, on the way of the library's own reply."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from atefs.mount.init_reply import DONT_MASK, InitReply, unmasked

FLAGS = 1 << 16 | 1 << 20


def reply(error: int = 0) -> bytes:
    """struct fuse_out_header and struct fuse_init_out, as the library writes them."""
    body = struct.pack("=IIIIHHIIHHI7I", 7, 37, 131_072, FLAGS, 64, 48, 1 << 20, 1, 256, 0, 0, *[0] * 7)
    return struct.pack("=IiQ", 16 + len(body), error, 2) + body


def test_one_flag_is_added_and_nothing_else_touched() -> None:
    sent, given = unmasked(reply()), reply()
    assert struct.unpack_from("=I", sent, 28) == (FLAGS | DONT_MASK,)
    assert (sent[:28], sent[32:]) == (given[:28], given[32:])


@pytest.mark.parametrize("given", [reply(-71), reply(-71)[:16], b""])
def test_a_refusal_goes_out_as_it_is(given: bytes) -> None:
    assert unmasked(given) == given


def test_only_the_first_reply_is_caught_and_nothing_is_left_open() -> None:
    device, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = set(os.listdir("/proc/self/fd"))
    with device, kernel:
        caught = InitReply()
        assert not caught.waits(device.fileno())
        assert not caught.waits(device.fileno())  # a request that was withdrawn before it was read
        caught.divert()
        os.write(device.fileno(), reply())
        assert caught.waits(device.fileno())
        os.write(device.fileno(), b"next")
        assert [kernel.recv(4096), kernel.recv(4096)] == [unmasked(reply()), b"next"]
        assert set(os.listdir("/proc/self/fd")) == before
        assert not os.get_inheritable(device.fileno())


def test_a_library_that_does_not_reply_leaves_the_descriptor_as_it_was() -> None:
    device, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with device, kernel:
        caught = InitReply()
        caught.waits(device.fileno())
        caught.divert()
        assert caught.waits(device.fileno())
        os.write(device.fileno(), b"next")
        assert kernel.recv(4096) == b"next"
