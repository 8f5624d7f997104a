"""Repair of a damaged chain: what is sound is written into a new log, which then takes the place of the old one.

Nothing of the old log is deleted: it moves to `damaged-<time>` inside the store. The new log is made in `repair.tmp`,
becomes `repair-<time>` when it is complete and durable, and is swapped in by renames. Up to the one that takes the old
segments away, the store is what it was; from there on it opens no more until `repair` is called again and goes on
where it was interrupted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from atedb.chain import device, journal, log, manifest, view
from atedb.chain.chain import Chain, Clock
from atedb.chain.device import load_device
from atedb.chain.disk import Disk, RealDisk, translated
from atedb.chain.dump import Describe
from atedb.chain.event import Change, TermsOf, no_terms
from atedb.chain.header import load_header, verify_root
from atedb.chain.heads import Head, RememberedHeads
from atedb.chain.journal import Journal
from atedb.chain.lock import ChainLock
from atedb.chain.position import START, Position
from atedb.chain.recovery import Progress
from atedb.chain.remote import load_remote
from atedb.chain.report import RepairReport, VerifyReport
from atedb.chain.salvage import Salvage
from atedb.chain.shadow import STEP
from atedb.chain.verify import verify_log
from atedb.chain.view import View, ViewUnusableError, view_place
from atedb.crypto.keys import KeyRing
from atedb.errors import RolledBackError, UnsupportedError

BATCH_BYTES = 8 << 20
BATCH_EVENTS = 4096
_UNFINISHED = "repair.tmp"
_COMPLETE = "repair-"
_KEPT = "damaged-"
_REPORT = "report.json"


def repair(
    store: Path, root: bytes, *, heads: Path | None = None, progress: Progress | None = None,
    terms: TermsOf = no_terms, describe: Describe | None = None, disk: Disk | None = None,
    clock: Clock = time.time_ns,
) -> RepairReport:  # fmt: skip
    """Make the chain in the folder `store` open again, with all that is sound. Only at the user's word.

    A sound log is left alone, and what stands beside it (view, manifest, device) is mended. heads: folder of the
    remembered heads. terms: as for `Chain.open`. describe: puts an event of the meta lane into words, for the report.
    progress: called with bytes done and in all, once through for each of three passes. clock: ns since the epoch.
    Raises StoreNotFoundError, InUseError, NoSpaceError (nothing was changed then), StorageError, RolledBackError (that
    is for the user to judge), UnsupportedError (it is damaged, and follows a server), and DamagedError when the chain's
    header is damaged.
    """
    disk = disk or RealDisk()
    work = _Repair(disk, store, root, clock, RememberedHeads(disk, heads) if heads else None)
    lock = ChainLock(store)
    try:
        report = work.resume()
        if report is None:
            found = verify_log(store, root, data=True, heads=heads, progress=progress, disk=disk)
            if found.damage and load_remote(disk, store) is not None:
                raise UnsupportedError(
                    f"the log in {store} is damaged and cannot be mended by itself, for the server would not know it "
                    "any more; nothing was changed; move the folder away and mount the chain again, with "
                    "--accept-rollback: all that the server has comes from there, and what was not sent yet stays in "
                    "the folder"
                )
            if found.damage:
                report = work.rewrite(found, describe, progress)
            elif found.rolled_back:
                raise RolledBackError(found.rolled_back)
            else:
                report = RepairReport(str(store), sequence=found.sequence, head=found.head, remarks=found.remarks)
                report.remarks += work.mend_journal(found)
    finally:
        lock.release()
    # Opening it proves the repair, and mends whatever else there is to mend.
    chain = Chain.open(store, root, terms=terms, heads=heads, disk=disk, clock=clock)
    try:
        if chain.head.sequence:
            chain.checkpoint()
    finally:
        chain.close()
    return report


class _Repair:
    """The steps of one repair."""

    def __init__(self, disk: Disk, store: Path, root: bytes, clock: Clock, heads: RememberedHeads | None) -> None:
        self._disk = disk
        self._store = store
        self._root = root
        self._clock = clock
        self._heads = heads
        self._header = load_header(disk, store)
        verify_root(self._header, root)
        self._keys = KeyRing(root, self._header.chain_id, self._header.suite)

    def resume(self) -> RepairReport | None:
        """Go on with a repair that was interrupted while it swapped; None when there is none. Clears leftovers."""
        shutil.rmtree(self._store / _UNFINISHED, ignore_errors=True)
        for name in self._disk.names(self._store):
            if not name.startswith(_COMPLETE):
                continue
            side = self._store / name
            if (self._store / log.FOLDER).exists() and (side / log.FOLDER).exists():
                # It had not begun to swap, and the chain may have been written to since: salvage it afresh.
                shutil.rmtree(side)
                with contextlib.suppress(OSError):
                    self._kept(side).rmdir()
                continue
            return msgspec.structs.replace(self._swap(side), resumed=True)
        return None

    def mend_journal(self, found: VerifyReport) -> list[str]:
        """See that the chain opens whatever its journal is like; what is to be said of that."""

        def keep() -> Path:
            folder = self._kept(self._side(self._clock()))
            self._disk.make_folder(folder)
            return folder

        head = bytes.fromhex(found.head) or START.hash
        if Journal(self._disk, self._store, self._keys).mend(Position(found.sequence, head), keep):
            return ["the journal was damaged, and a part of what was synced last is lost; it is kept as it was found"]
        return []

    # -- the new log

    def rewrite(self, found: VerifyReport, describe: Describe | None, progress: Progress | None) -> RepairReport:
        """Salvage into a new log, and swap it in."""
        unfinished = self._store / _UNFINISHED
        try:
            report = self._write_new(unfinished, found, describe, progress)
            side = self._side(self._clock())
            report.moved_to = str(self._kept(side))
            self._disk.replace(unfinished / _REPORT, report.encode())
            self._move(unfinished, side)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        self._swap(side)
        return report

    def _side(self, now: int) -> Path:
        stamp = datetime.fromtimestamp(now / 1e9, UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        taken = self._disk.names(self._store)
        names = (stamp if n == 1 else f"{stamp}-{n}" for n in range(1, len(taken) + 2))
        return self._store / (_COMPLETE + next(name for name in names if _KEPT + name not in taken))

    def _kept(self, side: Path) -> Path:
        return self._store / (_KEPT + side.name.removeprefix(_COMPLETE))

    def _write_new(
        self, folder: Path, found: VerifyReport, describe: Describe | None, progress: Progress | None
    ) -> RepairReport:
        self._disk.make_folder(folder)
        index = folder / "salvage"
        self._disk.make_folder(index)
        if device.NAME in self._disk.names(self._store):
            self._disk.replace(folder / device.NAME, self._disk.read_bytes(self._store / device.NAME))
        salvage = Salvage(self._disk, self._store, index, self._header, self._keys)
        try:
            self._learn(salvage)
            salvage.collect(progress)
            pending = 0
            chain = Chain.create(folder, self._root, disk=self._disk, clock=self._clock, header=self._header)
            try:
                for changes in _batches(salvage.changes(describe, progress)):
                    chain.commit(changes)
                    pending += len(changes)
                    if pending >= STEP:
                        pending = 0
                        chain.checkpoint()
                if last := Journal(self._disk, self._store, self._keys).salvage(found.sequence):
                    chain.commit(list(last.values()))
                head = chain.head
            finally:
                chain.close()
        finally:
            salvage.close()
        shutil.rmtree(index)
        return RepairReport(
            str(self._store), found.damage, head.sequence, head.hash, salvage.objects, salvage.losses, found.missing,
            remarks=found.remarks,
        )  # fmt: skip

    def _learn(self, salvage: Salvage) -> None:
        own = load_device(self._disk, self._store, self._keys)
        if own is not None:  # the root key sealed it: that is as good as a certificate
            salvage.devices[own.public] = b""
        with contextlib.suppress(ViewUnusableError):
            known = View.open(view_place(self._disk, self._store, self._keys), read_only=True)
            try:
                salvage.learn(known)
            finally:
                known.close()

    # -- the swap

    def _swap(self, side: Path) -> RepairReport:
        """Put the new log in `side` in the old one's place. May have been interrupted anywhere before."""
        store, kept = self._store, self._kept(side)
        self._disk.make_folder(kept)
        # The view of the old log must not meet the new one, nor be left to be believed if this is interrupted.
        self._disk.unlink(store / view.SEAL)
        self._disk.sync_folder(store)
        shutil.rmtree(store / view.FOLDER, ignore_errors=True)
        if (side / log.FOLDER).exists():
            if (store / log.FOLDER).exists():
                self._move(store / log.FOLDER, kept / log.FOLDER)
            if (side / manifest.NAME).exists():
                if (store / manifest.NAME).exists():
                    self._move(store / manifest.NAME, kept / manifest.NAME)
                self._move(side / manifest.NAME, store / manifest.NAME)
            self._move(side / log.FOLDER, store / log.FOLDER)
        if (store / journal.NAME).exists():  # what could be had of it is in the new log, whose batches it does not know
            self._move(store / journal.NAME, kept / journal.NAME)
        report = RepairReport.decode(self._disk.read_bytes(side / _REPORT))
        if self._heads is not None:
            self._heads.remember(self._keys.chain_id, Head(report.sequence, report.head))
        self._disk.replace(kept / _REPORT, report.encode())
        self._move(side, store / _UNFINISHED)  # so that half a removal is not taken for a repair to go on with
        shutil.rmtree(store / _UNFINISHED)
        return report

    def _move(self, source: Path, target: Path) -> None:
        try:
            os.rename(source, target)
        except OSError as error:
            raise translated(error, f"moving {source} to {target}") from error
        self._disk.sync_folder(target.parent)
        if source.parent != target.parent:
            self._disk.sync_folder(source.parent)


def _batches(changes: Iterator[Change]) -> Iterator[list[Change]]:
    """Cut into commits; at least one, which brings the device's certificate into the new log."""
    batch: list[Change] = []
    size = 0
    for change in changes:
        batch.append(change)
        size += len(change.body)
        if size >= BATCH_BYTES or len(batch) >= BATCH_EVENTS:
            yield batch
            batch, size = [], 0
    yield batch
