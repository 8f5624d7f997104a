"""`atefs mount`, `atefs umount`, `atefs status`."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atedb.cli import output
from atedb.errors import AteError, ExitCode, StoreNotFoundError
from atefs.cli import secrets
from atefs.cli.mountpoint import MountPoint
from atefs.mount.options import DRIVERS, ID_MAX, MountOptions, RecoveryMode
from atefs.mount.options import parse as parse_options

if TYPE_CHECKING:
    from atedb.net.url import ServerUrl
    from atefs.mount.driver import MountPlan
    from atefs.mount.session import Session

_HOLDERS_SHOWN = 10


@click.command()
@click.argument("mountpoint", type=MountPoint())
@click.argument("url", required=False, metavar="[URL]")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, and log to the terminal.")
@click.option("-r", "--read-only", is_flag=True, help="Mount without the right to change anything.")
@click.option("--allow-other", is_flag=True, help="Let other users in, as far as permissions allow it.")
@click.option(
    "--driver", type=click.Choice(DRIVERS), default=DRIVERS[0], show_default=True,
    help="How the kernel is spoken to: directly, or through libfuse, which takes the extra atefs[pyfuse3].",
)  # fmt: skip
@click.option("--accept-rollback", is_flag=True, help="Accept a store older than what this machine has seen of it.")
@click.option(
    "--recovery-mode", type=click.Choice([mode.value for mode in RecoveryMode]), show_default=True,
    default=RecoveryMode.ASYNC.value,
    help="What is done about a server: whether fsync waits for it, and whether anything may change without it.",
)  # fmt: skip
@click.option(
    "--token-path", type=click.Path(readable=False, path_type=Path),
    help="Be known to the server by the token in this file (default: $ATE_TOKEN_FILE, or your login).",
)  # fmt: skip
@click.option("--uid", type=click.IntRange(0, ID_MAX - 1), help="The vault's owner has this number here.")
@click.option("--gid", type=click.IntRange(0, ID_MAX - 1), help="The vault's owning group has this number here.")
@click.option("--impersonate-uid", is_flag=True, help="The vault's owner is you: --uid and --gid with your numbers.")
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="Mount options, as in /etc/fstab.")
@secrets.secret_options
@click.pass_context
def mount(
    ctx: click.Context, mountpoint: Path, url: str | None, *, foreground: bool, read_only: bool, allow_other: bool,
    driver: str, accept_rollback: bool, recovery_mode: str, token_path: Path | None, uid: int | None,
    gid: int | None, impersonate_uid: bool, options: tuple[str, ...], secret: secrets.SecretSource,
) -> int:  # fmt: skip
    """Mount a vault on the folder MOUNTPOINT.

    Without URL this is the vault that belongs to MOUNTPOINT; the first time, a local one is made: a passphrase is asked
    for twice, and a recovery code printed once. URL may be the folder of another store, or name a chain on a server:
    then this machine keeps a replica of it, works without the server, and sends what is new when it can. Afterwards
    the URL may be left out.

    \b
    Examples:
      atefs mount ~/vault
      atefs mount --read-only ~/old /media/backup/vault
      atefs mount --passphrase-file /run/secrets/vault ~/vault
      atefs mount ~/vault ws://server:5000/db/you@example.com/vault
      atefs mount --token-path photos.token ~/photos ws://server:5000/db/you@example.com/photos
    In /etc/fstab:
      /srv/vault  /home/me/vault  atefs  passphrase-file=/root/vault.pass,allow_other,nofail  0 0

    \b
    Options after -o: ro, rw, allow_other, noacl, nonempty, accept_rollback, passphrase-file=FILE, key-file=FILE,
    token-path=FILE, log-file=FILE, recovery-mode=MODE, uid=N, gid=N, nosuid, nodev, noexec, sync, dirsync; what only
    mount(8) needs is ignored.
    Access times: relatime (the default), strictatime, noatime, nodiratime.
    """
    base = MountOptions(
        read_only=read_only, allow_other=allow_other, accept_rollback=accept_rollback, driver=driver,
        recovery=RecoveryMode(recovery_mode), token_path=token_path,
        uid=os.getuid() if uid is None and impersonate_uid else uid,
        gid=os.getgid() if gid is None and impersonate_uid else gid,
    )  # fmt: skip
    parsed = parse_options(options, base)
    where = secret.or_else(parsed.passphrase_file, parsed.key_file)
    return mount_vault(mountpoint, url, parsed, where, foreground=foreground, debug=ctx.obj["debug"])


def mount_vault(
    mountpoint: Path, url: str | None, options: MountOptions, where: secrets.SecretSource, *, foreground: bool,
    debug: bool, may_make: bool = True, quiet: bool = False,
) -> int:  # fmt: skip
    """Mount; the exit code. may_make: whether a local vault that does not exist yet is made. quiet: say nothing."""
    from atedb.daemon import logs
    from atefs.cli import joining, opening
    from atefs.mount import adapters, places, preflight, servers
    from atefs.mount.driver import Driver, MountPlan

    mountpoint = places.canonical(mountpoint)
    store = places.store_of(mountpoint, url)
    preflight.require_fuse()
    adapters.require(options.driver)
    preflight.clear_mountpoint(mountpoint)
    address = _address(store, url)
    session = _session(address, options)
    if address is not None and not opening.is_store(store):
        made = _make_mountpoint(mountpoint, options)
        try:
            assert session is not None
            root = joining.join(mountpoint, store, address, where, session)
        except BaseException:
            if made:
                mountpoint.rmdir()
            raise
    elif not opening.is_store(store):
        if url is not None or not may_make:
            raise StoreNotFoundError(f"there is no vault in {store}; nothing was changed; make one: atefs init {store}")
        if options.read_only:
            raise StoreNotFoundError(
                f"there is no vault for {mountpoint} yet, and a read-only one would be of no use; "
                f"nothing was changed; make it with: atefs mount {mountpoint}"
            )
        root = _make(mountpoint, store, options, where)
    else:
        preflight.require_mountpoint(mountpoint, nonempty=options.nonempty)
        moves = address != servers.attached(store)
        root = opening.unlock(store, where, mend=not options.read_only, session=None if moves else session)
        if moves and address is not None and session is not None:
            joining.send(store, address, session)
    plan = MountPlan(mountpoint, store, options, root, address, session.identity if session is not None else None)
    if foreground:
        logs.to_stderr(debug=debug)
        return Driver(plan, _Terminal(mountpoint)).run()
    _serve_in_background(plan, debug=debug)
    if not quiet:
        click.echo(f"Mounted {mountpoint}.")
    return ExitCode.OK


def _address(store: Path, url: str | None) -> ServerUrl | None:
    """The chain on a server that is to be mounted; None for a vault of this machine alone. Raises UrlError."""
    from atedb.net.url import ServerUrl
    from atefs.mount import places, servers

    if url is not None and places.names_server(url):
        return ServerUrl.parse(url)
    return servers.attached(store)


def _session(address: ServerUrl | None, options: MountOptions) -> Session | None:
    """Who we are to the vault's server; None for a vault of this machine alone. Raises TokenError, …"""
    from atefs.mount.session import is_open_to_others, session_for

    path = options.token_path
    if address is None:
        if path is not None:
            raise click.UsageError("A token is for a vault on a server, and this one is on this machine only.")
        return None
    session = session_for(address.server, path)
    if path is not None and is_open_to_others(path):
        click.echo(f"atefs: the token file {path} can be read by others; close it with: chmod 600 {path}", err=True)
    return session


def _make_mountpoint(mountpoint: Path, options: MountOptions) -> bool:
    """See that there is a folder to mount on, making it in a folder that is there. Whether it was made."""
    from atefs.mount import preflight

    if mountpoint.parent.is_dir() and not os.path.lexists(mountpoint):
        mountpoint.mkdir(mode=0o700)
        return True
    preflight.require_mountpoint(mountpoint, nonempty=options.nonempty)
    return False


def _make(mountpoint: Path, store: Path, options: MountOptions, where: secrets.SecretSource) -> bytes:
    """The first mount at a place: make its vault, and the mount point if need be. The root key."""
    from atedb.crypto.slots import KeySlots
    from atefs.cli.creating import create_store, show_recovery_code
    from atefs.mount import preflight

    if mountpoint.parent.is_dir() and not os.path.lexists(mountpoint):
        made = True
    else:
        preflight.require_mountpoint(mountpoint, nonempty=options.nonempty)
        made = False
    click.echo(f"There is no vault for {mountpoint} yet; making one in {store}.")
    with secrets.new_secret(where) as secret:
        if made:
            mountpoint.mkdir(mode=0o700)
        show_recovery_code(create_store(store, secret))
        return KeySlots.load(store).unlock(secret)


def _serve_in_background(plan: MountPlan, *, debug: bool) -> None:
    from atedb.daemon import logs
    from atefs.mount import daemon, places
    from atefs.mount.driver import Driver

    log = plan.options.log_file or places.log_file(plan.mountpoint)
    logs.to_file(log, debug=debug)
    with output.progress("reading the log") as progress:
        daemon.in_background(lambda report: Driver(plan, report).run(), log, progress)


class _Terminal:
    """Tells the person in front how far a foreground mount is."""

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint

    def progress(self, done: int, total: int) -> None:
        pass

    def ready(self) -> None:
        click.echo(f"Mounted {self._mountpoint}. Ctrl-C unmounts it.")


# -- umount


@click.command()
@click.argument("mountpoint", type=MountPoint())
@click.option("-l", "--lazy", is_flag=True, help="Unmount even while it is in use; whoever uses it gets errors.")
@click.option("--leave-queued", is_flag=True, help="Do not wait for the server: the next mount sends what it lacks.")
def umount(mountpoint: Path, lazy: bool, leave_queued: bool) -> None:
    """Unmount the vault on MOUNTPOINT; returns when all that was written is safe on disk, and on its server.

    When somebody still uses it, or the server cannot be reached, it stays mounted, and why is said.

    \b
    Examples:
      atefs umount ~/vault
      atefs umount --leave-queued ~/vault
    """
    click.echo(unmount_vault(mountpoint, lazy=lazy, leave_queued=leave_queued))


def unmount_vault(mountpoint: Path, *, lazy: bool = False, leave_queued: bool = False) -> str:
    """Unmount, and wait for the driver to end. What is to be said about it."""
    from atefs.mount import client, mountinfo, places, preflight

    mountpoint = places.canonical(mountpoint)
    mount_ = mountinfo.find(mountpoint)
    if mount_ is None or not mount_.ours:
        raise StoreNotFoundError(f"no vault is mounted at {mountpoint}; nothing was changed; see: atefs status")
    if preflight.pulse(mountpoint) in preflight.ENDED:
        preflight.clear_mountpoint(mountpoint)
        return f"The driver of {mountpoint} had ended before; the mount that it left is cleared away."
    pid = int(client.ask(mountpoint, "status")["pid"])
    watch = client.Watch(pid)
    try:
        said = _ask_to_unmount(mountpoint, mount_, pid, lazy, leave_queued)
        while not watch.ended(60):
            click.echo(f"The driver (process {pid}) is still closing the vault …", err=True)
    finally:
        watch.close()
    return f"Unmounted {mountpoint}; {said}."


_SAFE = "all of it is safe on disk"
_UNSAID = "its driver did not say that all of it is safe on disk: see its log"


def _ask_to_unmount(mountpoint: Path, mount_: Any, pid: int, lazy: bool, leave_queued: bool) -> str:
    """What the driver said of where everything is."""
    import signal

    from atefs.mount import client, holders

    if lazy:
        try:
            client.ask(mountpoint, "sync")
            said = _SAFE
        except (client.NoDriverError, client.RefusedError) as error:
            click.echo(f"atefs: {error}", err=True)
            said = _UNSAID
        os.kill(pid, signal.SIGTERM)
        return said
    with _Spinner() as spinner:
        try:
            end = client.ask(mountpoint, "umount", spinner.show, patience=None, leave_queued=leave_queued)
            queued = end.get("queued")
            return f"{_SAFE}, and what is queued ({queued}) is sent at the next mount" if queued else _SAFE
        except client.NoDriverError:
            return _UNSAID  # it ended before it could answer
        except client.RefusedError as error:
            if error.exit_code != ExitCode.BUSY:
                raise
            found = holders.holders(mountpoint, mount_.device)
            users = "".join(f"\n  {holder}" for holder in found[:_HOLDERS_SHOWN])
            more = f"\n  and {len(found) - _HOLDERS_SHOWN} more" if len(found) > _HOLDERS_SHOWN else ""
            raise client.RefusedError(
                f"{error}; end what uses it and try again, or force it with: atefs umount --lazy {mountpoint}"
                f"{users}{more}",
                ExitCode.BUSY,
            ) from None


class _Spinner:
    """One line on a terminal that says how far an unmount is, when it takes longer than a second."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = False

    def __enter__(self) -> _Spinner:
        return self

    def show(self, state: dict[str, Any]) -> None:
        if not sys.stderr.isatty() or time.monotonic() - self._start < output.PATIENCE:
            return
        text = {
            "sync": f"writing: {output.size(state.get('bytes', 0))} done, {output.size(state.get('left', 0))} waiting",
            "send": f"sending: {output.size(state.get('left', 0))} waiting",
            "unmount": "unmounting",
            "close": "closing the vault",
        }.get(state["phase"], state["phase"])
        width = shutil.get_terminal_size().columns - 1
        click.echo("\r" + text[:width].ljust(width), nl=False, err=True)
        self._shown = True

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", nl=False, err=True)


# -- status


@click.command()
@click.argument("mountpoint", required=False, type=MountPoint())
@output.json_option
def status(mountpoint: Path | None, as_json: bool) -> int:
    """Show the vault mounted on MOUNTPOINT, or all that are mounted.

    \b
    Examples:
      atefs status
      atefs status ~/vault --json | jq .pid
    """
    from atefs.mount import mountinfo, places

    if mountpoint is None:
        states = [_state(mount_.mountpoint) for mount_ in mountinfo.ours()]
        if as_json:
            output.print_json(states)
        elif states:
            rows = [[s["mountpoint"], s["pid"] or "-", s["store"] or "-", _health(s)] for s in states]
            output.table(["MOUNTPOINT", "PID", "STORE", "STATE"], rows)
        else:
            click.echo("No vault is mounted. Mount one with: atefs mount MOUNTPOINT")
        return ExitCode.OK
    path = places.canonical(mountpoint)
    found = mountinfo.find(path) or mountinfo.covering(path)
    if found is None or not found.ours:
        if as_json:
            output.print_json({"mountpoint": path, "mounted": False, "pid": None})
            return ExitCode.NOT_FOUND
        raise StoreNotFoundError(f"no vault is mounted at {path}; mount it with: atefs mount {path}")
    state = _state(found.mountpoint)
    if as_json:
        output.print_json(state)
    else:
        _show(state)
    return ExitCode.OK if state["pid"] else ExitCode.FAILED


def _state(mountpoint: Path) -> dict[str, Any]:
    """What the driver says of itself; without a driver, that."""
    from atefs.mount import client, preflight

    try:
        return client.ask(mountpoint, "status")
    except AteError as error:
        why = str(error)
        if preflight.pulse(mountpoint) in preflight.ENDED:
            why = f"its driver has ended; mount the vault again, or clear up with: atefs umount {mountpoint}"
        return {"mountpoint": mountpoint, "mounted": True, "pid": None, "store": None, "error": why}


def _health(state: dict[str, Any]) -> str:
    if state["pid"] is None:
        return "the driver does not answer"
    if state["error"]:
        return f"failed: {state['error']}"
    waiting = f", {output.size(state['dirty_bytes'])} to be committed" if state["dirty_bytes"] else ""
    server = state["server"]
    if server is not None:
        waiting += f", {server['state']}"
        if server["pending_batches"]:
            waiting += f", {output.size(server['pending_bytes'])} to be sent"
    return ("read-only" if state["read_only"] else "mounted") + waiting


def _show(state: dict[str, Any]) -> None:
    if state["pid"] is None:
        click.echo(f"{state['mountpoint']}: {state['error']}")
        return
    output.fields(
        {
            "mount point": state["mountpoint"],
            "state": _health(state),
            "driver": f"process {state['pid']}, for {(time.time() - state['started']) / 60:.0f} min",
            "store": state["store"],
            "chain": state["chain"],
            "live data": output.size(state["live_bytes"]),
            "log": output.size(state["stored_bytes"]),
            "free": output.size(state["free_bytes"]),
            "batches": f"{state['written']} written, {state['durable']} on stable storage",
            **_server_fields(state["server"]),
        }
    )


def _server_fields(server: dict[str, Any] | None) -> dict[str, object]:
    """What is shown of the link; nothing for a local vault."""
    if server is None:
        return {}
    pending = server["pending_batches"]
    fields: dict[str, object] = {
        "server": server["url"],
        "link": server["state"] + (f": {server['error']}" if server["error"] else ""),
        "recovery mode": server["recovery_mode"],
        "on the server": f"{server['acknowledged']} batches",
        "to be sent": f"{pending} batches, {output.size(server['pending_bytes'])}" if pending else "nothing",
    }
    locks = server["locks"]
    if locks is not None and any(locks[number] for number in ("held", "waiting", "lost")):
        lost = f", {locks['lost']} lost to others while apart from the server" if locks["lost"] else ""
        where = "" if locks["shared"] else ", for this machine only"
        fields["locks"] = f"{locks['held']} held, {locks['waiting']} waited for{where}{lost}"
    return fields
