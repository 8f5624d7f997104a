"""Walking and copying the tree of a vault, as a library's user would."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from atefs.errors import ExistsError, InvalidError, NotFoundError
from atefs.vault.inode import Attributes, Caller, Inode
from atefs.vault.limits import ROOT_INO
from atefs.vault.vault import Vault

CHUNK = 1 << 20
COMMIT_BYTES = 32 << 20
COMMIT_OBJECTS = 20_000


def _parts(path: str) -> list[bytes]:
    return [part for part in os.fsencode(path).split(b"/") if part not in (b"", b".")]


def find(vault: Vault, path: str) -> Inode:
    """The inode of a path; symbolic links are not followed. Raises NotFoundError naming the path."""
    inode = vault.getattr(ROOT_INO)
    for part in _parts(path):
        try:
            inode = vault.lookup(inode.ino, part)
        except NotFoundError:
            raise NotFoundError(f"there is no {path} in the vault; see what there is: atefs ls") from None
    return inode


def described(vault: Vault, name: str, inode: Inode) -> dict[str, Any]:
    """The attributes of an inode, for printing."""
    return {
        "name": name,
        "ino": inode.ino,
        "mode": stat.filemode(inode.mode),
        "uid": inode.uid,
        "gid": inode.gid,
        "nlink": inode.nlink,
        "size": inode.size,
        "blocks": inode.blocks,
        "atime": inode.atime,
        "mtime": inode.mtime,
        "ctime": inode.ctime,
        "btime": inode.btime,
        "target": os.fsdecode(vault.readlink(inode.ino)) if inode.is_link else None,
        "xattrs": {os.fsdecode(key): value.hex() for key, value in (inode.xattrs or {}).items()} or None,
    }


def content(vault: Vault, inode: Inode) -> Iterator[bytes]:
    """A file's content in pieces. Raises VaultError for what has none."""
    ino, size = inode.ino, inode.size
    if not size:
        vault.read(ino, 0, 1)
    for offset in range(0, size, CHUNK):
        yield vault.read(ino, offset, CHUNK)


# -- out of the vault


def copy_out(vault: Vault, inode: Inode, target: Path) -> tuple[int, int]:
    """Copy an inode and all below it to `target`; how many, and how many bytes."""
    ino, mode, size = inode.ino, inode.mode, inode.size
    if inode.is_dir:
        target.mkdir(exist_ok=True)
        count, total = 1, 0
        for entry in vault.readdir(ino):
            if entry.name not in (b".", b".."):
                more = copy_out(vault, vault.getattr(entry.ino), target / os.fsdecode(entry.name))
                count, total = count + more[0], total + more[1]
        _dress(vault.getattr(ino), target)
        return count, total
    if inode.is_link:
        os.symlink(vault.readlink(ino), os.fsencode(target))
    elif inode.is_file:
        _write_out(vault, inode, target)
    else:
        os.mknod(target, mode, inode.rdev)
    _dress(vault.getattr(ino), target)
    return 1, size if stat.S_ISREG(mode) else 0


def _write_out(vault: Vault, inode: Inode, target: Path) -> None:
    """Runs of zeros that cover a whole piece are left as holes."""
    size = inode.size
    with target.open("xb") as file:
        for chunk in content(vault, inode):
            if chunk.count(0) == len(chunk):
                file.seek(len(chunk), os.SEEK_CUR)
            else:
                file.write(chunk)
        file.truncate(size)


def _dress(inode: Inode, target: Path) -> None:
    """Owner where we may, mode, attributes, times: in the order in which one does not undo the other."""
    if os.geteuid() == 0:
        os.chown(target, inode.uid, inode.gid, follow_symlinks=False)
    if not inode.is_link:
        target.chmod(stat.S_IMODE(inode.mode))
    for name, value in (inode.xattrs or {}).items():
        try:
            os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            click.echo(f"atefs: {target}: attribute {os.fsdecode(name)} not kept: {error.strerror}", err=True)
    os.utime(target, ns=(inode.atime, inode.mtime), follow_symlinks=False)


# -- into the vault


def destination(vault: Vault, path: str, name: bytes) -> tuple[int, bytes]:
    """Where a copy named `name` goes: into the folder `path`, or to the new name that `path` gives."""
    parts = _parts(path)
    try:
        inode = find(vault, path)
    except NotFoundError:
        parent = find(vault, os.fsdecode(b"/".join(parts[:-1])))
        return parent.ino, parts[-1]
    if not inode.is_dir:
        raise ExistsError(f"{path} is there already; nothing was copied; name another path")
    return inode.ino, name


def copy_in(vault: Vault, origin: Path, parent: int, name: bytes) -> tuple[int, int]:
    """Copy a file or folder of the system to a new name in the vault; how many, and how many bytes.

    What was copied is committed now and then, so that memory stays bounded.
    """
    info = origin.lstat()
    caller = Caller(info.st_uid, info.st_gid)
    count, total = 1, 0
    if stat.S_ISDIR(info.st_mode):
        ino = vault.mkdir(parent, name, stat.S_IMODE(info.st_mode), caller).ino
        for child in sorted(origin.iterdir()):
            more = copy_in(vault, child, ino, os.fsencode(child.name))
            count, total = count + more[0], total + more[1]
    elif stat.S_ISLNK(info.st_mode):
        ino = vault.symlink(parent, name, os.readlink(os.fsencode(origin)), caller).ino
    elif stat.S_ISREG(info.st_mode):
        ino = vault.mknod(parent, name, info.st_mode, 0, caller).ino
        total = _read_in(vault, origin, ino)
    elif stat.S_ISSOCK(info.st_mode):
        raise InvalidError(f"{origin} is a socket, which cannot be copied; what came before it was")
    else:
        ino = vault.mknod(parent, name, info.st_mode, info.st_rdev, caller).ino
    for attribute in os.listxattr(origin, follow_symlinks=False):
        if not attribute.startswith("system."):
            vault.setxattr(ino, os.fsencode(attribute), os.getxattr(origin, attribute, follow_symlinks=False))
    times = Attributes(mode=stat.S_IMODE(info.st_mode), atime=info.st_atime_ns, mtime=info.st_mtime_ns)
    vault.setattr(ino, times)
    _commit_if_much(vault)
    return count, total


def _read_in(vault: Vault, origin: Path, ino: int) -> int:
    """Holes stay holes as far as whole pieces of zeros go."""
    offset = 0
    with origin.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            if chunk.count(0) != len(chunk):
                vault.write(ino, offset, chunk)
                _commit_if_much(vault)
            offset += len(chunk)
    vault.setattr(ino, Attributes(size=offset))
    return offset


def _commit_if_much(vault: Vault) -> None:
    if vault.dirty_bytes >= COMMIT_BYTES or vault.dirty_objects >= COMMIT_OBJECTS:
        vault.commit()
