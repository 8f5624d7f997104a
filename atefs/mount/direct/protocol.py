"""The FUSE protocol's numbers and structures, as linux/fuse.h has them (protocol 7.31 to 7.45).

Everything is in the machine's byte order, and every structure is a multiple of eight bytes. Requests are a header, a
structure that depends on the opcode, and then names that end in NUL or bytes to be written. Answers are a header and
a structure or bytes.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

MAJOR = 7
MINOR = 45
MINOR_MIN = 31
"""Linux 5.4. Older kernels are refused."""


class Opcode(IntEnum):
    """What a request asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class Init(IntFlag):
    """What kernel and filesystem agree on at the start (FUSE_INIT)."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    FLOCK_LOCKS = 1 << 10
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30


class Set(IntEnum):
    """Which fields of a SETATTR request count (FATTR_…). No IntFlag: testing a bit of one takes a microsecond."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3
SETXATTR_ACL_KILL_SGID = 1 << 0
WRITE_CACHE, WRITE_KILL_SUIDGID = 1 << 0, 1 << 2
RELEASE_FLOCK_UNLOCK = 1 << 1
LK_FLOCK = 1 << 0

IN_HEADER = struct.Struct("=IIQQIIIHH")
"""length, opcode, unique, node, uid, gid, pid, total_extlen (in units of 8 bytes), padding"""
OUT_HEADER = struct.Struct("=IiQ")
"""length, -errno, unique"""

INIT_IN = struct.Struct("=IIII")
"""major, minor, max_readahead, flags; flags2 follows where flags has INIT_EXT"""
INIT_OUT = struct.Struct("=IIIIHHIIHHII24x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran (ns), max_pages,
map_alignment, flags2, max_stack_depth"""

ATTR = struct.Struct("=QQQqqqIIIIIIIIII")
"""ino, size, blocks, atime, mtime, ctime (s), their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags"""
ENTRY = struct.Struct("=QQQQII")
"""node, generation, entry_valid, attr_valid (s), and the nanoseconds of both; then ATTR"""
ATTR_OUT = struct.Struct("=QII")
"""attr_valid (s, ns), padding; then ATTR"""
STATX_IN = struct.Struct("=IIQII")
"""getattr_flags, reserved, fh, statx flags, statx mask"""
STATX_OUT = struct.Struct("=QIIQQ" + "IIQIIIHHQQQQ" + "qIi" * 4 + "IIII112x")
"""attr_valid (s, ns), flags, two spares; mask, blksize, attributes, nlink, uid, gid, mode, spare, ino, size, blocks,
attributes_mask; access, birth, change and modification time (s, ns, reserved); rdev and dev (major, minor)"""
SETATTR_IN = struct.Struct("=IIQQQqqqIIIIIIII")
"""valid, padding, fh, size, lock_owner, atime, mtime, ctime (s), their nanoseconds, mode, unused, uid, gid, unused"""

MKNOD_IN = struct.Struct("=IIII")
"""mode, rdev, umask, padding; then the name"""
MKDIR_IN = struct.Struct("=II")
"""mode, umask; then the name"""
CREATE_IN = struct.Struct("=IIII")
"""flags, mode, umask, open_flags; then the name"""
RENAME_IN = struct.Struct("=Q")
"""the new parent; then both names"""
RENAME2_IN = struct.Struct("=QII")
"""the new parent, flags, padding; then both names"""
LINK_IN = struct.Struct("=Q")
"""the node that gets another name; then that name"""

OPEN_IN = struct.Struct("=II")
"""flags, open_flags"""
OPEN_OUT = struct.Struct("=QIi")
"""fh, open_flags, backing_id"""
READ_IN = struct.Struct("=QQIIQII")
"""fh, offset, size, read_flags, lock_owner, flags, padding"""
WRITE_IN = struct.Struct("=QQIIQII")
"""fh, offset, size, write_flags, lock_owner, flags, padding; then the bytes"""
WRITE_OUT = struct.Struct("=II")
"""size, padding"""
HANDLE_IN = struct.Struct("=Q")
"""fh: how the structures of FLUSH, RELEASE, FSYNC and their like begin"""
FLUSH_IN = struct.Struct("=QQQ")
"""fh, padding, lock_owner"""
RELEASE_IN = struct.Struct("=QIIQ")
"""fh, flags, release_flags, lock_owner"""
LK_IN = struct.Struct("=QQQQIIII")
"""fh, owner, first byte, last byte, type (fcntl.F_RDLCK …), pid, lk_flags, padding"""
LK_OUT = struct.Struct("=QQII")
"""first byte, last byte, type, pid"""
FALLOCATE_IN = struct.Struct("=QQQII")
"""fh, offset, length, mode, padding"""
COPY_FILE_RANGE_IN = struct.Struct("=QQQQQQQ")
"""fh, offset; the node to copy to, fh, offset; length, flags"""
COPY_FILE_RANGE_OUT = struct.Struct("=Q")
"""bytes copied, as COPY_FILE_RANGE_64 answers; the older call answers WRITE_OUT"""
LSEEK_IN = struct.Struct("=QQII")
"""fh, offset, whence, padding"""
LSEEK_OUT = struct.Struct("=Q")
"""offset"""

GETXATTR_IN = struct.Struct("=II")
"""size (0: tell the size), padding; then the name"""
GETXATTR_OUT = struct.Struct("=II")
"""size, padding"""
SETXATTR_IN = struct.Struct("=IIII")
"""size, flags, setxattr_flags, padding (with SETXATTR_EXT); then the name and the value"""
ACCESS_IN = struct.Struct("=II")
"""mask, padding"""
IOCTL_IN = struct.Struct("=QIIQII")
"""fh, flags, command, argument, in_size, out_size; then the bytes that go in"""
IOCTL_OUT = struct.Struct("=iIII")
"""result, flags, in_iovs, out_iovs; then the bytes that come out"""
STATFS_OUT = struct.Struct("=QQQQQIIII24x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding"""
DIRENT = struct.Struct("=QQII")
"""ino, offset of the next, namelen, type; then the name, padded with zeros to eight bytes"""

NOTIFY_INVAL_INODE = 2
NOTIFY_INVAL_ENTRY = 3
INVAL_INODE = struct.Struct("=Qqq")
"""node, offset (negative: attributes only), length (0: up to the end)"""
INVAL_ENTRY = struct.Struct("=QII")
"""node of the folder, namelen, flags; then the name with a NUL"""
EXPIRE_ONLY = 1
"""The name is looked up again, and whoever is there stays (Linux 6.2; before, the name goes)."""

INTERRUPT_IN = struct.Struct("=Q")
"""unique of the request that is to end"""
FORGET_IN = struct.Struct("=Q")
"""nlookup"""
BATCH_FORGET_IN = struct.Struct("=II")
"""count, padding; then as many of FORGET_ONE"""
FORGET_ONE = struct.Struct("=QQ")
"""node, nlookup"""

BODY = IN_HEADER.size
"""Where a request's own structure begins."""
