"""What a filesystem operation can be refused with: one class per errno, below `atedb.errors.AteError`.

A full disk, a read-only chain and damage keep the classes they have there.
"""

from __future__ import annotations

import errno as _errno

from atedb.errors import AteError, ExitCode


class VaultError(AteError):
    """An operation on names or files that was refused; nothing has changed."""


class NotFoundError(VaultError):
    """No entry of that name."""

    errno = _errno.ENOENT
    exit_code = ExitCode.NOT_FOUND


class StaleError(VaultError):
    """No inode of that number: it was deleted, or never was."""

    errno = _errno.ESTALE
    exit_code = ExitCode.NOT_FOUND


class ExistsError(VaultError):
    """The name is taken."""

    errno = _errno.EEXIST
    exit_code = ExitCode.EXISTS


class NotDirectoryError(VaultError):
    """A directory is needed here."""

    errno = _errno.ENOTDIR


class IsDirectoryError(VaultError):
    """A directory cannot be used here."""

    errno = _errno.EISDIR


class NotEmptyError(VaultError):
    """The directory still has entries."""

    errno = _errno.ENOTEMPTY


class InvalidError(VaultError):
    """An argument that makes no sense for this object."""

    errno = _errno.EINVAL


class NotPermittedError(VaultError):
    """The kind of object does not allow it."""

    errno = _errno.EPERM


class NameTooLongError(VaultError):
    """A name over 255 bytes, or a link target over 4,095."""

    errno = _errno.ENAMETOOLONG


class AccessError(VaultError):
    """The kind of object does not take such an attribute."""

    errno = _errno.EACCES


class NotSupportedError(VaultError):
    """Nothing of the sort exists for this object, or in this version."""

    errno = _errno.EOPNOTSUPP


class TooManyLinksError(VaultError):
    """The link count is at its bound."""

    errno = _errno.EMLINK


class FileTooBigError(VaultError):
    """Beyond the largest offset a file can have."""

    errno = _errno.EFBIG


class NoAttributeError(VaultError):
    """No extended attribute of that name."""

    errno = _errno.ENODATA
    exit_code = ExitCode.NOT_FOUND


class AttributeRangeError(VaultError):
    """An extended attribute's name is empty or over 255 bytes."""

    errno = _errno.ERANGE


class AttributeTooBigError(VaultError):
    """An extended attribute's value is over 64 KiB."""

    errno = _errno.E2BIG


class NoDataError(VaultError):
    """SEEK_DATA or SEEK_HOLE past the end of the file."""

    errno = _errno.ENXIO


class NotRegularError(VaultError):
    """Room is allocated for regular files only."""

    errno = _errno.ENODEV


class QuotaError(VaultError):
    """The vault's quota is used up."""

    errno = _errno.EDQUOT
    exit_code = ExitCode.NO_SPACE


class CommitInFlightError(VaultError):
    """A second freeze before the first commit was settled or thawed."""

    errno = _errno.EBUSY
    exit_code = ExitCode.BUSY
