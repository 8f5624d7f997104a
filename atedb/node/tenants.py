"""Who may come in: a file for each tenant, `DATA/tenants/<name>.toml`, which may change while the server runs.

A server whose data folder has no folder `tenants` takes anybody. Once it is there, also empty, only its tenants are let
in: whoever removes the last one does not open the server to the world.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from atedb.chain.disk import RealDisk, translated
from atedb.crypto.signing import PUBLIC_KEY_SIZE
from atedb.errors import AteError, ExitCode, StoreNotFoundError
from atedb.node.data_folder import made

log = logging.getLogger(__name__)

FOLDER = "tenants"
MAX_KEYS = 1000
MAX_FILE = 1 << 20
_NAME = re.compile(r"(?!.*\.chain$)[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
_KEY = re.compile(rf"[0-9a-f]{{{2 * PUBLIC_KEY_SIZE}}}")


class TenantError(AteError):
    """A tenant's name, key or file is not what it has to be."""

    exit_code = ExitCode.USAGE


class Tenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """keys: public identity keys that are let in, as hexadecimal digits. None stands for the server's own limits.

    quota: bytes that the tenant's chains may take up together; None: what the disk holds. rate: bytes a second.
    connections: at one time.
    """

    keys: Annotated[tuple[str, ...], Meta(max_length=MAX_KEYS)] = ()
    quota: Annotated[int, Meta(ge=0)] | None = None
    rate: Annotated[int, Meta(ge=4096)] | None = None
    connections: Annotated[int, Meta(ge=1)] | None = None


def require_name(name: str) -> str:
    """The name, when it can be a tenant's: the first part of its chains' paths. Raises TenantError."""
    if not _NAME.fullmatch(name):
        raise TenantError(
            f"{name!r} cannot be a tenant's name; nothing was changed; use up to 100 letters, digits and . _ @ + -, "
            "begin with a letter or digit, and do not end with .chain"
        )
    return name


def require_key(text: str) -> str:
    """The public key as it is written down. Raises TenantError unless it is one."""
    key = text.strip().lower()
    if not _KEY.fullmatch(key):
        raise TenantError(
            f"{text!r} is not a public key of {2 * PUBLIC_KEY_SIZE} hexadecimal digits; nothing was changed; its "
            "owner gets it from: atefs identity"
        )
    return key


class Tenants:
    """The folder of tenants below a data folder. Plain synchronous calls on small files."""

    def __init__(self, data: Path) -> None:
        self.folder = data / FOLDER
        self._disk = RealDisk()
        self._read: dict[str, tuple[tuple[int, ...], Tenant]] = {}

    def required(self) -> bool:
        """Whether whoever comes has to be somebody's."""
        return self.folder.is_dir()

    def require(self) -> None:
        """From now on whoever comes has to be somebody's. Durable on return. Raises StorageError."""
        made(self.folder.parent, FOLDER)

    def all(self) -> Mapping[str, Tenant]:
        """Every tenant by name. Only files that changed are read again.

        Raises StorageError. A file that is none is logged, and its tenant let in no more, until it is put right.
        """
        found: dict[str, tuple[tuple[int, ...], Tenant]] = {}
        for name, path, mark in self._files():
            before = self._read.get(name)
            if before is not None and before[0] == mark:
                found[name] = before
                continue
            try:
                found[name] = mark, _load(path)
            except TenantError as error:
                log.warning("%s; nobody is let in by it", error)
                found[name] = mark, Tenant()
        self._read = found
        return {name: tenant for name, (_, tenant) in found.items()}

    def get(self, name: str) -> Tenant:
        """One tenant. Raises StoreNotFoundError, or TenantError for a file that is none."""
        return _load(self._present(name))

    def add(self, name: str, keys: Sequence[str], limits: Mapping[str, int | None]) -> Tenant:
        """Make a tenant, or let more keys in and change limits of one that is there; what it is then.

        limits: those of `Tenant` that are to change. Durable on return. Raises TenantError (also for a key that lets
        somebody else in: what a client does counts for one tenant), StorageError.
        """
        path, more = self._path(name), [require_key(key) for key in keys]
        self.require()
        with self._alone():
            before = _load(path) if path.exists() else Tenant()
            self._require_free(name, more)
            after = msgspec.structs.replace(before, keys=tuple(dict.fromkeys([*before.keys, *more])), **limits)
            try:
                msgspec.convert(msgspec.to_builtins(after), Tenant)
            except msgspec.ValidationError as error:
                raise TenantError(f"the tenant {name} cannot be like that: {error}; nothing was changed") from None
            self._disk.replace(path, _text(after))
            return after

    def remove(self, name: str, keys: Sequence[str] = ()) -> Tenant | None:
        """Let these keys of a tenant in no more, or, without any, the tenant; what is left of it. Chains stay.

        Raises StoreNotFoundError for a tenant or a key that is not there, TenantError, StorageError.
        """
        self._present(name)
        with self._alone():
            path = self._present(name)
            if not keys:
                self._disk.unlink(path)
                self._disk.sync_folder(self.folder)
                return None
            before, gone = _load(path), [require_key(key) for key in keys]
            for key in gone:
                if key not in before.keys:
                    raise StoreNotFoundError(f"the tenant {name} has no key {key}; nothing was changed")
            after = msgspec.structs.replace(before, keys=tuple(key for key in before.keys if key not in gone))
            self._disk.replace(path, _text(after))
            return after

    def _require_free(self, name: str, keys: Sequence[str]) -> None:
        """Raises TenantError when one of the keys is another tenant's."""
        for other, tenant in self.all().items():
            for key in keys if other != name else ():
                if key in tenant.keys:
                    raise TenantError(f"the key {key} is the tenant {other}'s; nothing was changed; remove it there")

    def _path(self, name: str) -> Path:
        return self.folder / f"{require_name(name)}.toml"

    def _present(self, name: str) -> Path:
        """The file of a tenant that there is. Raises StoreNotFoundError."""
        path = self._path(name)
        if not path.exists():
            raise StoreNotFoundError(f"there is no tenant {name} in {self.folder}; nothing was changed")
        return path

    def _files(self) -> Iterator[tuple[str, Path, tuple[int, ...]]]:
        """Every tenant's name, file, and what is different when the file is."""
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    name = entry.name.removesuffix(".toml")
                    if name == entry.name or not _NAME.fullmatch(name):
                        continue
                    try:
                        about = entry.stat()
                    except FileNotFoundError:
                        continue  # removed since it was listed
                    mark = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_mode)
                    yield name, Path(entry.path), mark
        except FileNotFoundError:
            return
        except OSError as error:
            raise translated(error, f"listing {self.folder}") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two who change tenants at the same time wait for each other."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _load(path: Path) -> Tenant:
    """Raises TenantError for a file that cannot be read, or has settings that are unknown or no values."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise ValueError(f"it is larger than {MAX_FILE} bytes")
        tenant = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Tenant)
        return msgspec.structs.replace(tenant, keys=tuple(map(require_key, tenant.keys)))
    except (OSError, ValueError, TenantError) as error:
        raise TenantError(f"the tenant's file {path} cannot be used: {error}") from None


def _text(tenant: Tenant) -> bytes:
    """A tenant's file: keys a line each, and numbers; nothing that TOML would have to quote."""
    lines = ["keys = [", *(f'    "{key}",' for key in tenant.keys), "]"]
    limits = {"quota": tenant.quota, "rate": tenant.rate, "connections": tenant.connections}
    lines += [f"{name} = {value}" for name, value in limits.items() if value is not None]
    return "\n".join(lines).encode() + b"\n"
