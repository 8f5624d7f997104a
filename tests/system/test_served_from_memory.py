"""The direct adapter over a vault in memory that the test mounts by itself: what no mount of a real vault shows."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.from_thread

from atefs.mount.direct import session as module
from atefs.mount.direct.adapter import DirectAdapter
from atefs.mount.direct.protocol import Init, Opcode
from atefs.mount.direct.request import Request
from atefs.mount.direct.session import Session
from atefs.vault.vault import Vault
from tests.mount.direct.kernel import FakeCommitter
from tests.system.mounted import run
from tests.vault.memory_chain import MemoryChain

pytestmark = pytest.mark.needs("fuse", "root")

ROOT = 1
SYNCS_DEVICES = (6, 18)
"""The Linux from which on SYNCFS is sent to what is on a block device."""
libc = ctypes.CDLL(None, use_errno=True)


class Served:
    """A mounted vault in memory; `use` runs in a thread of its own while requests are answered."""

    def __init__(self, path: Path, source: str, kind: str) -> None:
        self.path = path
        self.session = Session()
        self.vault = Vault.make(MemoryChain())
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        words = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(source.encode(), os.fsencode(path), kind.encode(), ctypes.c_ulong(0), words):
            raise OSError(ctypes.get_errno(), "mount")

    def run(self, use: Callable[[FakeCommitter], None]) -> None:
        """Until `use` has returned and the vault is unmounted."""

        def and_unmount(committer: FakeCommitter) -> None:
            try:
                use(committer)
            finally:
                run("umount", self.path)

        async def main() -> None:
            committer = FakeCommitter()
            adapter = DirectAdapter(self.vault, cast(Any, committer), self.session)
            adapter.prepare(acl=False, acl_in_kernel=False)
            self.session.attach(self._fd, Init(0))
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.session.serve)
                    await self.session.in_thread(lambda: and_unmount(committer))
            self.session.detach()

        trio.run(main)

    def behind_its_back(self, change: Callable[[], object]) -> None:
        """Change the vault without the kernel's knowing: as another machine does."""
        trio.from_thread.run_sync(change)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A mount point."""
    made = tmp_path / "mounted"
    made.mkdir()
    return made


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    """A block device that nobody needs."""
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    name = run("losetup", "--find", "--show", image).stdout.strip()
    yield name
    run("losetup", "--detach", name)


@pytest.mark.needs("losetup")
def test_a_filesystem_is_synced_as_a_whole_and_told_when_it_is_unmounted(
    device: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SYNCFS and DESTROY, which the kernel sends only to what says that it is on a block device."""
    destroyed: list[int] = []

    def done(request: Request) -> bytes:
        destroyed.append(request.opcode)
        return b""

    monkeypatch.setattr(module, "_done", done)
    served = Served(path, device, "fuseblk")

    def use(committer: FakeCommitter) -> None:
        (path / "file").write_bytes(b"content")
        assert committer.syncs == 0
        run("sync", "--file-system", path)
        release = tuple(int(part) for part in os.uname().release.split(".")[:2])
        assert committer.syncs == (release >= SYNCS_DEVICES)
        assert not destroyed

    served.run(use)
    assert destroyed == [Opcode.DESTROY]
    assert served.vault.read(served.vault.lookup(ROOT, b"file").ino, 0, 100) == b"content"


def test_a_name_that_expires_is_looked_up_again_and_whoever_is_there_stays(path: Path) -> None:
    """Others have moved one folder and made another; one that only might have changed is still somebody's."""
    served = Served(path, "test", "fuse")
    vault, session = served.vault, served.session

    def use(_: FakeCommitter) -> None:
        for name in ("moved", "stays"):
            (path / name).mkdir()
            (path / name / "file").touch()
        assert not (path / "new").exists()
        with subprocess.Popen(["cat"], cwd=path / "stays", stdin=subprocess.PIPE) as inside:
            served.behind_its_back(lambda: vault.rename(ROOT, b"moved", ROOT, b"new", 0))
            assert (path / "moved").exists(), "as long as the kernel is told nothing, it does not ask"
            for changed in (b"moved", b"new", b"stays"):
                session.renamed(ROOT, changed)
            assert not (path / "moved").exists()
            assert (path / "new" / "file").exists()
            assert os.readlink(f"/proc/{inside.pid}/cwd") == str(path / "stays")
            inside.communicate(timeout=30)

    served.run(use)


def test_content_that_others_changed_is_read_again(path: Path) -> None:
    served = Served(path, "test", "fuse")
    vault, session = served.vault, served.session

    def use(_: FakeCommitter) -> None:
        file = path / "file"
        file.write_bytes(b"one")
        ino = file.stat().st_ino
        assert file.read_bytes() == b"one"
        served.behind_its_back(lambda: vault.write(ino, 0, b"two"))
        assert file.read_bytes() == b"one", "as long as the kernel is told nothing, it does not ask"
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        session.changed(ino)
        assert file.read_bytes() == b"two"

    served.run(use)
