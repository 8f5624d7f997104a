"""Sizes and bounds: what the format fixes, and what the caches may hold."""

from __future__ import annotations

from typing import NamedTuple

ROOT_INO = 1
BLOCK = 128 * 1024
"""Bytes of content in one block object."""
REGION_BLOCKS = 64
"""Blocks described by one map."""
INLINE_MAX = 8 * 1024
"""Content up to here lives in the inode."""
COMPRESS_MIN = 512
"""Inline content shorter than this is not worth a try at compression."""
PATCHES_MAX = 32
"""Patches of one block besides those of whole pages; one more, and the block is rewritten."""
PATCH_BYTES_MAX = BLOCK // 4
"""Dirty bytes of one block up to which patches pay."""
PAGE = 4096
"""Overwrites of whole pages have slots of their own; st_blocks rounds the end of a block's data up to pages."""
BLOCK_PAGES = BLOCK // PAGE
NAME_MAX = 255
SYMLINK_MAX = 4095
FILE_MAX = 2**63 - 1
LINK_MAX = 2**31 - 1
XATTR_NAME_MAX = 255
XATTR_SIZE_MAX = 64 * 1024
XATTRS_TOTAL_MAX = 256 * 1024
"""Names and values of all extended attributes of one inode: they travel with it."""
INO_RANGE = 65_536
"""Inode numbers reserved at once by a device."""
KEPT_FOR = 30 * 24 * 3600 * 10**9
"""Nanoseconds for which an inode without a name is left to the device that keeps it."""
OBJECT_COST = 512
"""Bytes that a small object is taken to need on disk, seal, framing and index row included."""
PIECE_COST = 112
"""Bytes that a piece of content takes on disk besides itself: seal, framing, and its line in a map."""
TIME_MIN, TIME_MAX = -(2**63), 2**63 - 1


class CacheSizes(NamedTuple):
    """What the vault may keep in memory of what is already in the chain.

    inodes, dentries, maps: how many. content: bytes of blocks and inline files.
    """

    inodes: int = 32_768
    dentries: int = 65_536
    maps: int = 4_096
    content: int = 32 * 1024 * 1024


DEFAULT_CACHES = CacheSizes()
