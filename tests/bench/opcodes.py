"""What a request costs the driver, by opcode: the table in docs/performance.md.

The processor's time in Python, from the bytes of a request to those of its answer, which go to /dev/null: without the
kernel's share, and without the commits that follow later, which are given apart.

.venv/bin/python tests/bench/opcodes.py
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from atedb.chain.chain import Chain
from atefs.mount import memory
from atefs.mount.committer import Committer
from atefs.mount.direct.adapter import DirectAdapter
from atefs.mount.direct.protocol import (
    CREATE_IN,
    FORGET_IN,
    GETXATTR_IN,
    HANDLE_IN,
    IN_HEADER,
    OPEN_IN,
    READ_IN,
    RENAME_IN,
    SETATTR_IN,
    WRITE_IN,
    Init,
    Opcode,
    Set,
)
from atefs.mount.direct.session import Session
from atefs.vault.codec import terms_of
from atefs.vault.inode import Caller
from atefs.vault.vault import Vault

FILES = 5000
ROUNDS = 3
DATA = os.urandom(2048) + bytes(2048)
Cost = list[float]
Request = tuple[int, int, bytes]


class Bench:
    """A vault of a real chain behind a session whose answers nobody reads."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.chain = Chain.create(store, bytes(range(32)))
        self.costs: dict[str, Cost] = {}
        self._attach(Vault.make(self.chain, time.time_ns))
        memory.calm_collector()

    def _attach(self, vault: Vault) -> None:
        self.vault = vault
        session = Session()
        committer = Committer(vault, self.chain, session, cast(Any, None))
        committer.touch = lambda: None  # type: ignore[method-assign]  # commits are made, and timed, by hand
        DirectAdapter(vault, committer, session).prepare(acl=True, acl_in_kernel=False)
        session.attach(os.open("/dev/null", os.O_RDWR), Init(0))
        self.session = session

    def reopen(self) -> None:
        """Forget all that is in memory."""
        self.chain.close()
        self.session.detach()
        self.chain = Chain.open(self.store, bytes(range(32)), terms=terms_of(self.chain.keys))
        self._attach(Vault(self.chain, time.time_ns))

    def time(self, what: str, requests: Iterable[Request], each: int = 1) -> None:
        """Answer all of them. each: how many things one of them is about."""
        packed = [
            IN_HEADER.pack(IN_HEADER.size + len(body), opcode, number, node, 0, 0, 1, 0, 0) + body
            for number, (opcode, node, body) in enumerate(requests, 1)
        ]
        answer = self.session._answer
        start = time.process_time()
        for data in packed:
            answer(data)
        self._note(what, (time.process_time() - start) / len(packed) / each)

    def commit(self, what: str, files: int) -> None:
        """Commit all that is dirty."""
        start = time.process_time()
        frozen = self.vault.freeze()
        assert frozen is not None
        self.chain.commit(frozen.changes)
        self.vault.settled(frozen)
        self._note(what, (time.process_time() - start) / files)

    def _note(self, what: str, seconds: float) -> None:
        self.costs.setdefault(what, []).append(seconds)


def name(kind: str, number: int) -> bytes:
    return f"{kind}{number:05d}".encode() + b"\0"


def run(bench: Bench, folder: int) -> None:
    """One round in a new folder."""
    each = range(FILES)
    bench.time("LOOKUP, no such name", ((Opcode.LOOKUP, folder, name("f", i)) for i in each))
    create = CREATE_IN.pack(os.O_CREAT | os.O_WRONLY, 0o644, 0o022, 0)
    bench.time("CREATE", ((Opcode.CREATE, folder, create + name("f", i)) for i in each))
    inos = {row.name: row.ino for row in bench.vault.readdir(folder)}
    nodes = [inos[name("f", i)[:-1]] for i in each]
    ask = GETXATTR_IN.pack(0, 0) + b"security.capability\0"
    bench.time("GETXATTR, no such attribute", ((Opcode.GETXATTR, node, ask) for node in nodes))
    write = WRITE_IN.pack(0, 0, len(DATA), 0, 0, 0, 0) + DATA
    bench.time("WRITE, 4 KiB", ((Opcode.WRITE, node, write) for node in nodes))
    bench.time("FLUSH", ((Opcode.FLUSH, node, HANDLE_IN.pack(node << 2 | 1) + bytes(16)) for node in nodes))
    bench.time("RELEASE", ((Opcode.RELEASE, node, HANDLE_IN.pack(node << 2 | 1) + bytes(16)) for node in nodes))
    bench.commit("commit of a new 4 KiB file", FILES)
    chmod = SETATTR_IN.pack(Set.MODE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o100600, 0, 0, 0, 0)
    bench.time("SETATTR, mode", ((Opcode.SETATTR, node, chmod) for node in nodes))
    bench.time("GETATTR", ((Opcode.GETATTR, node, bytes(16)) for node in nodes))
    bench.time("LOOKUP, in memory", ((Opcode.LOOKUP, folder, name("f", i)) for i in each))
    bench.time("OPEN", ((Opcode.OPEN, node, OPEN_IN.pack(os.O_RDONLY, 0)) for node in nodes))
    bench.time("READ, 4 KiB", ((Opcode.READ, node, READ_IN.pack(0, 0, 4096, 0, 0, 0, 0)) for node in nodes))
    for handle, opcode in enumerate((Opcode.READDIR, Opcode.READDIRPLUS), 1):
        bench.time("OPENDIR", [(Opcode.OPENDIR, folder, bytes(8))])
        whole = READ_IN.pack(handle, 0, 1 << 24, 0, 0, 0, 0)
        bench.time(f"{opcode.name}, each entry", [(opcode, folder, whole)], FILES)
    bench.vault.commit()
    bench.reopen()
    bench.vault.getattr(folder)
    bench.time("LOOKUP, to be loaded", ((Opcode.LOOKUP, folder, name("f", i)) for i in each))
    bench.time("RENAME", ((Opcode.RENAME, folder, RENAME_IN.pack(folder) + name("f", i) + name("g", i)) for i in each))
    bench.commit("commit of a rename", FILES)
    bench.time("UNLINK", ((Opcode.UNLINK, folder, name("g", i)) for i in each))
    bench.time("FORGET", ((Opcode.FORGET, node, FORGET_IN.pack(1)) for node in nodes))
    bench.commit("commit of an unlink", FILES)


def main() -> None:
    """Print the table, in microseconds: the best of a few rounds."""
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place) / "store")
        for number in range(ROUNDS):
            run(bench, bench.vault.mkdir(1, name("folder", number)[:-1], 0o755, Caller(0, 0)).ino)
        bench.chain.close()
    print("| request | us |\n|---|---|")
    for what, costs in bench.costs.items():
        print(f"| {what} | {min(costs) * 1e6:.1f} |")


if __name__ == "__main__":
    main()
