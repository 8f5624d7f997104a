"""What the tests of the node share."""

from __future__ import annotations

from tests.chain.conftest import in_memory

__all__ = ["in_memory"]
