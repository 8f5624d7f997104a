"""Mount points as arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


class MountPoint(click.Path):
    """A path that is not looked at: to look at a mount whose driver hangs would keep the very command from working that
    is to clear it away."""

    def __init__(self) -> None:
        super().__init__(readable=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Any text is one."""
        return Path(os.fsdecode(value))
