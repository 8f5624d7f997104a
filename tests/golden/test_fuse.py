"""Requests that a real kernel has sent (Linux 6.18, protocol 7.45), answered again.

A program made, wrote, moved and removed files of each kind; what the kernel asked for it was noted. If a structure or a
handler no longer understands it, an answer changes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from atefs.mount.direct.protocol import IN_HEADER, Opcode
from atefs.vault import numbers
from tests.mount.direct.kernel import Kernel

REQUESTS = Path(__file__).parent / "fuse-7.45" / "requests.json"
SILENT = (Opcode.FORGET, Opcode.BATCH_FORGET)


def test_what_a_real_kernel_asks_is_answered_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "random_start", lambda: 2)  # the kernel that asked had been told of these

    async def main() -> None:
        kernel = Kernel()
        async with kernel.served():
            for noted in json.loads(REQUESTS.read_text()):
                data = bytes.fromhex(noted["request"])
                opcode = IN_HEADER.unpack_from(data)[1]
                unique = kernel.send_raw(data)
                if opcode in SILENT:
                    continue
                answer = await kernel.answer(unique)
                assert (answer.error, len(answer.payload)) == (noted["error"], noted["length"]), Opcode(opcode).name
            assert [entry.name for entry in kernel.vault.readdir(1)] == [b".", b"..", b"f2"]
            inode = kernel.vault.lookup(1, b"f2")
            assert (inode.mode, inode.uid, inode.gid, inode.size) == (0o100600, 0, 0, 100)
            assert kernel.vault.read(inode.ino, 0, 200) == b"x" * 10 + bytes(90)

    trio.run(main)


def test_every_opcode_that_is_answered_was_noted() -> None:
    noted = {IN_HEADER.unpack_from(bytes.fromhex(one["request"]))[1] for one in json.loads(REQUESTS.read_text())}
    # COPY_FILE_RANGE is sent by older kernels, SYNCFS to filesystems on a block device (test_served_from_memory.py).
    never_sent = {Opcode.INTERRUPT, Opcode.DESTROY, Opcode.STATX, Opcode.COPY_FILE_RANGE, Opcode.SYNCFS}
    locks = {Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW}  # to mounts of a server's chain (test_remote_locks.py)
    assert set(Opcode) - never_sent - locks <= noted
