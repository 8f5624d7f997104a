"""The life of a mount: open chain and vault, mount, serve, unmount, make all durable, close."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from atedb.chain.chain import Chain
from atedb.crypto.signing import SigningKey
from atedb.daemon.notify import notify
from atedb.errors import AteError, ExitCode, UnreachableError
from atefs.mount import adapters, kernel, memory, mountinfo
from atefs.mount.adapter import KernelAdapter
from atefs.mount.committer import Committer
from atefs.mount.control import ControlServer, Operation, Tell
from atefs.mount.daemon import Report
from atefs.mount.ids import SAME, Ids
from atefs.mount.offers import Offers
from atefs.mount.opening import open_chain
from atefs.mount.options import MountOptions
from atefs.mount.reaper import Reaper
from atefs.mount.waiting import Waiting
from atefs.vault.atime import AtimeRule
from atefs.vault.limits import ROOT_INO
from atefs.vault.vault import Vault

if TYPE_CHECKING:
    from atedb.net.url import ServerUrl
    from atefs.mount.upstream import Upstream

log = logging.getLogger(__name__)

SWITCH_INTERVAL = 0.1e-3
"""Seconds after which a thread must let another one have the interpreter: what a request waits for a busy thread."""
PROGRESS_SECONDS = 0.25
RESTART_SECONDS = 1.0


@dataclass(frozen=True)
class MountPlan:
    """What is to be mounted where. root: the vault's root key. url: of the chain that the store is a replica of, and
    identity: by which its server knows us.
    """

    mountpoint: Path
    store: Path
    options: MountOptions
    root: bytes = field(repr=False)
    url: ServerUrl | None = None
    identity: SigningKey | None = field(default=None, repr=False)


class NotSentError(UnreachableError):
    """An unmount would leave batches that the server does not have."""


class Driver:
    """One mounted vault, from `run` to its end."""

    def __init__(self, plan: MountPlan, report: Report) -> None:
        self._plan = plan
        self._report = report
        self._started = time.time()
        self._ended = trio.Event()
        self._failure: AteError | OSError | None = None
        self._upstream: Upstream | None = None
        self._delivers = True
        self._chain: Chain
        self._vault: Vault
        self._loop: Waiting
        self._committer: Committer
        self._reaper: Reaper
        self._adapter: KernelAdapter
        self._mount: mountinfo.Mount | None = None

    def run(self) -> ExitCode:
        """Mount and serve until unmounted. Returns when everything is on stable storage and the vault is closed.

        Raises AteError when the vault cannot be opened or mounted.
        """
        plan = self._plan
        memory.reuse_freed_memory()
        read_only = plan.options.read_only and plan.url is None  # a replica goes on following its server
        self._chain = open_chain(
            plan.store, plan.root, read_only=read_only, accept_rollback=plan.options.accept_rollback,
            progress=self._report.progress, remote=plan.url is not None,
        )  # fmt: skip
        try:
            if plan.options.accept_rollback and not read_only:
                self._chain.remember(self._chain.head)  # or it would have to be accepted until something is written
            if plan.url is not None:
                from atefs.mount.upstream import Upstream

                assert plan.identity is not None
                self._upstream = Upstream(plan.url, plan.options.recovery, self._chain, plan.root, plan.identity)
            code = trio.run(self._main)
        finally:
            self._chain.nowait = False
            self._chain.close()
        log.info("unmounted %s", plan.mountpoint)
        return code

    async def _main(self) -> ExitCode:
        code = ExitCode.FAILED
        async with trio.open_nursery() as outer:
            try:
                if self._upstream is not None:
                    await self._upstream.begin(outer, self._report.progress)
                self._assemble(outer)
                code = await self._controlled(outer)
            except (AteError, OSError) as error:
                self._failure = error
            outer.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        return code

    def _assemble(self, tasks: trio.Nursery) -> None:
        """The parts of the mount, around the open chain."""
        options, shared = self._plan.options, self._upstream is not None
        self._vault = Vault(
            self._chain, kernel.clock, options.read_only, kernel_times=not shared, atime=options.atime_policy
        )
        ids = SAME
        if options.uid is not None or options.gid is not None:  # asked while the disk may still be waited for
            ids = Ids.of(self._vault.getattr(ROOT_INO), options.uid, options.gid)
        self._chain.nowait = True
        self._loop, adapter = adapters.choose(options.driver)
        self._loop.idle = self._vault.read_ahead
        self._committer = Committer(self._vault, self._chain, self._loop, self._write_back)
        self._reaper = Reaper(self._vault, self._committer, self._loop)
        self._adapter = adapter(self._vault, self._committer)
        self._adapter.ids = ids
        self._reaper.outdate = lambda inodes: self._adapter.outdate(inodes, (), ())
        if self._upstream is not None:
            for task in self._upstream.serve(self._vault, self._committer, self._loop, adapter=self._adapter):
                tasks.start_soon(sturdy, task)

    async def _controlled(self, outer: trio.Nursery) -> ExitCode:
        """The mount with its control socket."""
        locks = self._upstream.locks if self._upstream is not None else None
        operations: dict[str, Operation] = {
            "status": self._status, "sync": self._sync, "umount": self._umount,
            **Offers(self._vault, self._chain, self._committer, self._loop, locks).operations(),
        }  # fmt: skip
        control = ControlServer(self._plan.mountpoint, operations)
        code = ExitCode.FAILED
        try:
            outer.start_soon(control.serve)
            try:
                code = await self._mounted()
            except (AteError, OSError) as error:
                self._failure = error
            self._ended.set()
            await control.drain()
        finally:
            control.close()
        return code

    async def _mounted(self) -> ExitCode:
        plan = self._plan
        self._adapter.attach(plan.mountpoint, kernel_options(plan.options, shared=self._upstream is not None))
        self._mount = mountinfo.find(plan.mountpoint)
        code = ExitCode.OK
        try:
            async with trio.open_nursery() as inner:
                if not plan.options.read_only:
                    inner.start_soon(sturdy, self._committer.run)
                    inner.start_soon(sturdy, self._reaper.run)
                inner.start_soon(self._watch_signals)
                inner.start_soon(self._begin)
                try:
                    await self._adapter.serve()
                except Exception:
                    log.exception("serving failed; the vault is closed in order")
                    code = ExitCode.FAILED
                inner.cancel_scope.cancel()
        finally:
            notify("STOPPING=1")
            with trio.CancelScope(shield=True):
                await self._end()
        return code

    async def _begin(self) -> None:
        """Once the kernel's requests are answered: tune, and tell whoever waits for it."""
        plan = self._plan
        if self._mount is not None:
            tuned = kernel.tune(self._mount)
            log.info("mounted %s on %s%s", plan.store, plan.mountpoint, f" ({', '.join(tuned)} set)" if tuned else "")
        memory.calm_collector()
        sys.setswitchinterval(SWITCH_INTERVAL)
        notify(f"READY=1\nMAINPID={os.getpid()}\nSTATUS=Mounted on {plan.mountpoint}")
        self._report.ready()

    async def _end(self) -> None:
        if self._upstream is not None:
            await self._upstream.replication.hush()
        self._adapter.detach()
        if not self._plan.options.read_only:
            async with self._committer.alone():
                await self._committer.finish()
        if self._upstream is not None and self._delivers:
            try:
                await self._upstream.deliver()
            except AteError as error:
                log.warning("not all is on the server yet; it is sent after the next mount: %s", error)
        if self._upstream is not None:
            await self._upstream.finish()

    async def _watch_signals(self) -> None:
        """SIGTERM and SIGINT unmount in order. A second one is not needed: the first cannot be refused."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            async for number in received:
                log.info("%s: unmounting %s", signal.Signals(number).name, self._plan.mountpoint)
                await self._stop()
                return

    async def _stop(self) -> None:
        """Unmount although somebody may use the mount: what the kernel has cached is written first."""
        try:
            await self._write_back()
            await self._unmount(lazily=True)
        except (AteError, OSError) as error:
            log.warning("unmounting %s: %s", self._plan.mountpoint, error)
        self._adapter.stop()

    async def _write_back(self) -> None:
        """Have the kernel hand over what it caches. Failing is no harm: it does so by itself within half a minute."""
        where = self._where()
        if where is None:
            return
        try:
            await self._loop.in_thread(lambda: kernel.write_back(where), abandon=True)  # or nothing ends before it does
        except OSError as error:
            log.warning("the kernel did not write back what it caches: %s", error)

    async def _unmount(self, *, lazily: bool = False) -> None:
        where = self._where()
        if where is not None:
            await self._loop.in_thread(lambda: kernel.unmount(where, lazily=lazily))

    def _where(self) -> Path | None:
        """Where the vault is mounted now: a folder above it may have been moved. None: somebody has unmounted it."""
        places = [mount.mountpoint for mount in mountinfo.ours() if self._mount and mount.device == self._mount.device]
        return self._plan.mountpoint if self._plan.mountpoint in places else next(iter(places), None)

    # -- what the control socket offers

    async def _status(self, _tell: Tell, _wanted: dict[str, Any]) -> dict[str, object]:
        plan, chain, committer = self._plan, self._chain, self._committer
        await self._loop.opened()
        error = chain.failed or committer.error
        return {
            "mountpoint": os.fspath(plan.mountpoint),
            "mounted": True,
            "pid": os.getpid(),
            "store": os.fspath(plan.store),
            "chain": chain.header.chain_id.hex(),
            "read_only": plan.options.read_only or chain.failed is not None,
            "error": str(error) if error else None,
            "started": self._started,
            "written": chain.written,
            "durable": chain.durable,
            "dirty_bytes": self._vault.dirty_bytes,
            "dirty_objects": self._vault.dirty_objects,
            "live_bytes": chain.live_bytes,
            "stored_bytes": chain.stored_bytes,
            "free_bytes": chain.free_bytes(),
            "requests": self._adapter.requests,
            "commits": committer.commits,
            "server": self._upstream.status() if self._upstream is not None else None,
        }

    async def _sync(self, tell: Tell, _wanted: dict[str, Any]) -> dict[str, object]:
        """Everything to stable storage, what the kernel caches included."""
        await self._write_down(tell, self._committer.sync)
        return {"durable": self._chain.durable}

    async def _write_down(self, tell: Tell, sync: Callable[[], Awaitable[None]]) -> None:
        """`sync`, once the kernel has handed over what it caches."""
        failure: AteError | None = None

        async def report() -> None:
            with contextlib.suppress(trio.BrokenResourceError):  # whoever asked has gone: it is done all the same
                while True:
                    await trio.sleep(PROGRESS_SECONDS)
                    await tell({"phase": "sync", "bytes": self._committer.bytes, "left": self._vault.dirty_bytes})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(report)
            try:
                if not self._plan.options.read_only:
                    await self._write_back()
                    await sync()
            except AteError as error:  # a nursery would hide it in a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _umount(self, tell: Tell, wanted: dict[str, Any]) -> dict[str, object]:
        """leave_queued: what the server does not have waits in the store for the next mount."""
        self._delivers = not wanted.get("leave_queued")
        await self._write_down(tell, self._committer.sync_here)
        if self._upstream is not None and self._delivers:
            await self._deliver(self._upstream, tell)
        await tell({"phase": "unmount"})
        await self._unmount()
        await tell({"phase": "close"})
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure
        queued = self._upstream.replication.replica.pending_count if self._upstream is not None else 0
        return {"durable": self._chain.durable, "pid": os.getpid(), "queued": queued}

    async def _deliver(self, upstream: Upstream, tell: Tell) -> None:
        """What is durable here to the server. Raises UnreachableError, and the vault stays mounted."""

        async def progress(batches: int, size: int) -> None:
            await tell({"phase": "send", "batches": batches, "left": size})

        try:
            await upstream.deliver(progress)
        except AteError as error:
            count = upstream.replication.replica.pending_count
            raise NotSentError(
                f"not all is on the server yet (batches that wait: {count}): {error}; the vault stays mounted, and all "
                "of it is safe on this machine; unmount and leave it queued: "
                f"atefs umount --leave-queued {self._plan.mountpoint}"
            ) from None


def kernel_options(options: MountOptions, *, shared: bool = False) -> frozenset[str]:
    """What the kernel is to be told of the options, as `KernelAdapter.attach` takes it. shared: others change the
    vault, too.

    It checks permissions, unless root mounts for itself alone: then nobody else is let in, root passes every check, and
    the kernel would ask for a folder's attributes anew after each change in it to find that out.
    """
    named = set(options.kernel)
    if os.geteuid() != 0 or options.allow_other:
        named.add("default_permissions")
    if options.read_only:
        named.add("ro")
    if shared:
        named.add("shared")
    if not options.acl:
        named.add("noacl")
    if options.atime is AtimeRule.NOATIME:
        named.add("noatime")
    if options.allow_other:
        named.add("allow_other")
    return frozenset(named)


async def sturdy(task: Callable[[], Awaitable[None]]) -> None:
    """Run a task that is to run for ever; a defect in it is logged, and it begins again."""
    while True:
        try:
            await task()
        except Exception:
            log.exception("a background task failed and is started again")
            await trio.sleep(RESTART_SECONDS)
