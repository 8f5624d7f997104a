"""Where secrets come from: a prompt without echo, a file, a descriptor. Never the command line."""

from __future__ import annotations

import functools
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from atedb.errors import AteError, ExitCode, StoreNotFoundError, WrongSecretError

if TYPE_CHECKING:
    from atedb.crypto.slots import KeySlots, Secret

F = TypeVar("F", bound=Callable[..., Any])

VARIABLE = "ATE_PASSPHRASE_FILE"
ATTEMPTS = 3
MAX_BYTES = 1 << 20


class NoSecretError(AteError):
    """A secret is needed, and there is nobody to ask."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class SecretSource:
    """Where the command line says that the secret is."""

    passphrase_file: Path | None = None
    passphrase_fd: int | None = None
    key_file: Path | None = None

    def or_else(self, passphrase_file: Path | None, key_file: Path | None) -> SecretSource:
        """This source where it names one on its own; else what is given, such as by mount options."""
        if passphrase_file is None and key_file is None:
            return self
        named = os.environ.get(VARIABLE)
        if not self.interactive and not (named and self == SecretSource(Path(named))):
            return self
        return SecretSource(passphrase_file=passphrase_file, key_file=key_file)

    @property
    def interactive(self) -> bool:
        """Whether somebody has to be asked."""
        return self.passphrase_file is None and self.passphrase_fd is None and self.key_file is None


def secret_options(function: F) -> F:
    """--passphrase-file, --passphrase-fd, --key-file: the command takes them as one argument, `secret`."""

    @functools.wraps(function)
    def command(
        *args: Any, passphrase_file: Path | None, passphrase_fd: int | None, key_file: Path | None, **options: Any
    ) -> Any:
        return function(*args, secret=source(passphrase_file, passphrase_fd, key_file), **options)

    decorated: Any = command
    for option in (
        click.option(
            "--key-file", type=click.Path(path_type=Path), help="Open with this key file instead of a passphrase."
        ),
        click.option(
            "--passphrase-fd", type=int, metavar="N", help="Read the passphrase from descriptor N, up to its end."
        ),
        click.option(
            "--passphrase-file", type=click.Path(path_type=Path),
            help=f"Read the passphrase from this file (default: ${VARIABLE}).",
        ),
    ):  # fmt: skip
        decorated = option(decorated)
    result: F = decorated
    return result


def source(passphrase_file: Path | None, passphrase_fd: int | None, key_file: Path | None) -> SecretSource:
    """The source that options and environment name."""
    named = os.environ.get(VARIABLE)
    if passphrase_file is None and passphrase_fd is None and key_file is None and named:
        passphrase_file = Path(named)
    return SecretSource(passphrase_file, passphrase_fd, key_file)


def unlock(slots: KeySlots, where: SecretSource, prompt: str = "Passphrase") -> bytes:
    """The root key of a vault. At a prompt, a slip may be repeated. Raises WrongSecretError, NoSecretError."""
    attempts = ATTEMPTS if where.interactive else 1
    for attempt in range(attempts):
        with obtained(where, prompt) as secret:
            try:
                return slots.unlock(secret)
            except WrongSecretError:
                if attempt == attempts - 1:
                    raise
                click.echo("That does not open the vault. Try again.", err=True)
    raise AssertionError


def new_secret(where: SecretSource, prompt: str = "New passphrase") -> Secret:
    """A secret that is to open a vault from now on; asked for twice."""
    from atedb.crypto.slots import Secret

    given = _given(where)
    if given is not None:
        return given
    _require_terminal()
    text = click.prompt(prompt, hide_input=True, confirmation_prompt="Repeat it", err=True)
    return Secret.passphrase(text)


def obtained(where: SecretSource, prompt: str = "Passphrase") -> Secret:
    """A secret that is to open a vault: read where the source says, or asked for."""
    return _given(where) or _asked(prompt)


def _asked(prompt: str) -> Secret:
    from atedb.crypto.slots import Secret

    _require_terminal()
    return Secret.typed(click.prompt(prompt, hide_input=True, err=True))


def _require_terminal() -> None:
    if not sys.stdin.isatty() and not os.access("/dev/tty", os.R_OK | os.W_OK):
        raise _nobody()
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        if not sys.stdin.isatty():
            raise _nobody() from None


def _nobody() -> NoSecretError:
    return NoSecretError(
        "a passphrase is needed and there is no terminal to ask at; nothing was changed; "
        f"give it with --passphrase-file FILE, ${VARIABLE}, --passphrase-fd N or --key-file FILE"
    )


def read_line(file: Path | None, what: str, prompt: str) -> str:
    """One line that is no passphrase: from a file, or asked for. Raises NoSecretError, StoreNotFoundError."""
    if file is not None:
        return os.fsdecode(_read(file, f"file with the {what}")).strip()
    _require_terminal()
    return str(click.prompt(prompt, err=True)).strip()


def _given(where: SecretSource) -> Secret | None:
    """What file or descriptor hold. Of a passphrase, a final end of line does not count."""
    from atedb.crypto.slots import Secret

    if where.key_file is not None:
        return Secret.key_file(_read(where.key_file, "key file"))
    if where.passphrase_fd is not None:
        try:
            with os.fdopen(where.passphrase_fd, "rb") as file:
                text = file.read(MAX_BYTES)
        except OSError as error:
            raise NoSecretError(f"descriptor {where.passphrase_fd} cannot be read: {error.strerror}") from None
    elif where.passphrase_file is not None:
        text = _read(where.passphrase_file, "passphrase file")
    else:
        return None
    return Secret.typed(os.fsdecode(text.removesuffix(b"\n").removesuffix(b"\r")))


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_BYTES)
    except FileNotFoundError:
        raise StoreNotFoundError(f"there is no {what} {path}; nothing was changed") from None
    except OSError as error:
        raise NoSecretError(f"the {what} {path} cannot be read: {error.strerror}; nothing was changed") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        click.echo(f"atefs: the {what} {path} can be read by others; close it with: chmod 600 {path}", err=True)
    return content
