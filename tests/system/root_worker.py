"""A process that carries out file operations below a root, as it is told; see two_roots.py.

argv: the user it acts as and its umask (octal). Requests come through stdin as pickled (operation, arguments) and are
answered through stdout with (errno or 0, result). Nothing but the standard library is used, and no path is absolute
but the one of `enter`: an ordinary user may not be able to walk to the root.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import pickle
import stat
import sys
from collections.abc import Iterator
from typing import Any

_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _facts(info: os.stat_result) -> dict[str, int]:
    return {
        "mode": info.st_mode, "uid": info.st_uid, "gid": info.st_gid, "nlink": info.st_nlink, "size": info.st_size,
        "rdev": info.st_rdev, "atime": info.st_atime_ns, "mtime": info.st_mtime_ns, "ctime": info.st_ctime_ns,
        "ino": info.st_ino, "blocks": info.st_blocks,
    }  # fmt: skip


class Worker:
    """The operations. A handle is known by the number it was opened under; a mapping as well."""

    def __init__(self, uid: int) -> None:
        self._uid = uid
        self._handles: dict[int, int] = {}
        self._maps: dict[int, mmap.mmap] = {}

    def enter(self, root: str) -> None:
        """Work below `root` from now on, as the user."""
        if self._uid:
            os.setresuid(0, 0, 0)
        os.chdir(root)
        if self._uid:
            os.setresgid(self._uid, self._uid, 0)
            os.setgroups([self._uid])
            os.setresuid(self._uid, self._uid, 0)

    def leave(self) -> None:
        """Close everything, and be nowhere."""
        for number in list(self._handles):
            self.close(number)
        for number in list(self._maps):
            self.unmap(number)
        os.chdir("/")

    # Handles

    def open(self, number: int, path: str, flags: int, mode: int) -> None:
        # A FIFO without a reader would wait for one.
        opened = os.open(path, flags | os.O_NONBLOCK, mode)
        self.close(number)
        self._handles[number] = opened

    def close(self, number: int) -> None:
        if number in self._handles:
            os.close(self._handles.pop(number))

    def write(self, number: int, data: bytes) -> int:
        return os.write(self._fd(number), data)

    def pwrite(self, number: int, data: bytes, offset: int) -> int:
        return os.pwrite(self._fd(number), data, offset)

    def pread(self, number: int, size: int, offset: int) -> bytes:
        return os.pread(self._fd(number), size, offset)

    def seek_end(self, number: int) -> int:
        fd = self._fd(number)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return 0  # every filesystem has cookies of its own
        return os.lseek(fd, 0, os.SEEK_END)

    def ftruncate(self, number: int, size: int) -> None:
        os.ftruncate(self._fd(number), size)

    def copy_range(self, source: int, target: int, size: int, place: int, to: int) -> int:
        """All of it: how much one call copies is left to the filesystem (man 2 copy_file_range)."""
        done = 0
        while done < size:
            step = os.copy_file_range(self._fd(source), self._fd(target), size - done, place + done, to + done)
            if not step:
                break
            done += step
        return done

    def fsync(self, number: int, data: bool) -> None:
        (os.fdatasync if data else os.fsync)(self._fd(number))

    def evict(self, number: int) -> None:
        """What the kernel caches of the file goes, once it is written."""
        fd = self._fd(number)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def fstat(self, number: int) -> dict[str, int]:
        return _facts(os.fstat(self._fd(number)))

    def fchmod(self, number: int, mode: int) -> None:
        os.fchmod(self._fd(number), mode)

    def fchown(self, number: int, uid: int, gid: int) -> None:
        os.fchown(self._fd(number), uid, gid)

    def futimens(self, number: int, atime: int, mtime: int) -> None:
        os.utime(self._fd(number), ns=(atime, mtime))

    def make_at(self, number: int, name: str, folder: bool) -> None:
        """In an open folder, which may be deleted by now."""
        if folder:
            os.mkdir(name, 0o755, dir_fd=self._fd(number))
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=self._fd(number)))

    # Mappings

    def map(self, number: int, writable: bool) -> int:
        """Map the whole file, shared; the mapping outlives the handle."""
        fd = self._fd(number)
        size = os.fstat(fd).st_size
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not size:
            return 0
        mapped = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
        self.unmap(number)
        self._maps[number] = mapped
        return size

    def unmap(self, number: int) -> None:
        if number in self._maps:
            self._maps.pop(number).close()

    def store(self, number: int, offset: int, data: bytes, sync: bool) -> int:
        """Write through a mapping, as far as the file goes: beyond its last page waits SIGBUS."""
        mapped = self._mapping(number)
        data = data[: max(0, min(len(mapped), mapped.size()) - offset)]
        try:
            mapped[offset : offset + len(data)] = data
        except TypeError:
            raise PermissionError(errno.EACCES, "mapped for reading") from None
        if sync:
            mapped.flush()
        return len(data)

    def fetch(self, number: int, offset: int, size: int) -> bytes:
        mapped = self._mapping(number)
        return mapped[offset : min(offset + size, mapped.size())]

    # Names

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def mknod(self, path: str, mode: int, device: int) -> None:
        os.mknod(path, mode, device)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, path)

    def link(self, path: str, new: str) -> None:
        os.link(path, new, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def rename(self, path: str, new: str, flags: int) -> None:
        _checked(_libc.renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(new), flags))

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def listing(self, path: str) -> list[tuple[str, bool, bool]]:
        with os.scandir(path) as entries:
            return sorted((entry.name, entry.is_symlink(), entry.is_dir(follow_symlinks=False)) for entry in entries)

    # Attributes

    def stat(self, path: str, follow: bool) -> dict[str, int]:
        return _facts(os.stat(path, follow_symlinks=follow))

    def truncate(self, path: str, size: int) -> None:
        os.truncate(path, size)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int, follow: bool) -> None:
        os.chown(path, uid, gid, follow_symlinks=follow)

    def utimens(self, path: str, times: tuple[int, int] | None, follow: bool) -> None:
        """times: None for now."""
        if times is None:
            os.utime(path, follow_symlinks=follow)
        else:
            os.utime(path, ns=times, follow_symlinks=follow)

    def setxattr(self, path: str, name: str, value: bytes, flags: int, follow: bool) -> None:
        os.setxattr(path, name, value, flags, follow_symlinks=follow)

    def getxattr(self, path: str, name: str, follow: bool) -> bytes:
        return os.getxattr(path, name, follow_symlinks=follow)

    def removexattr(self, path: str, name: str, follow: bool) -> None:
        os.removexattr(path, name, follow_symlinks=follow)

    def listxattr(self, path: str, follow: bool) -> list[str]:
        return sorted(os.listxattr(path, follow_symlinks=follow))

    # The whole

    def tree(self) -> dict[str, dict[str, Any]]:
        """Everything below the root, by path: attributes, content, extended attributes."""
        return {path: self._described(path) for path in self._paths(".")}

    def sync(self) -> None:
        """Everything on stable storage, what only the kernel has included."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            _checked(_libc.syncfs(fd))
            os.fsync(fd)
        finally:
            os.close(fd)

    def fsync_folder(self) -> None:
        """What the filesystem has been given is on stable storage afterwards."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _paths(self, folder: str) -> Iterator[str]:
        yield folder
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield from self._paths(entry.path)
            else:
                yield entry.path

    def _described(self, path: str) -> dict[str, Any]:
        content = None
        if stat.S_ISREG(os.lstat(path).st_mode):
            # Before the attributes: st_blocks is right once what was written has been handed over, which closing does.
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "blake2b").hexdigest()
        found: dict[str, Any] = {**_facts(os.lstat(path)), "content": content}
        if stat.S_ISLNK(found["mode"]):
            found["content"] = os.readlink(path)
        found["xattrs"] = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in self.listxattr(path, follow=False)
        }
        return found

    def _fd(self, number: int) -> int:
        if number not in self._handles:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._handles[number]

    def _mapping(self, number: int) -> mmap.mmap:
        if number not in self._maps:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._maps[number]


def main() -> None:
    """Until stdin ends."""
    worker = Worker(int(sys.argv[1]))
    os.umask(int(sys.argv[2], 8))
    while True:
        try:
            operation, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (0, getattr(worker, operation)(*arguments))
        except OSError as error:
            answer = (error.errno or errno.EIO, None)
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
