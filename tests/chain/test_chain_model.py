"""The chain against a dictionary: whatever is committed, however it is reopened, it answers as the model does."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from atedb.chain import log as log_module
from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane, Term
from tests.chain.conftest import ROOT, crash

names = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
bodies = st.binary(max_size=300) | st.binary(min_size=5000, max_size=5001)


def terms_of(tombstone: bool, body: bytes) -> tuple[Term, ...]:
    """The first 16 bytes of a META body name the set, the next 16 the member."""
    if len(body) < 32:
        return ()
    return (Term(body[:16], body[16:32], None if tombstone else body[32:]),)


class ChainMachine(RuleBasedStateMachine):
    """META bodies carry their own set row; BLOB bodies are opaque."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="chain-model-"))
        self.target = log_module.SEGMENT_TARGET
        log_module.SEGMENT_TARGET = 12 << 10
        self.chain = Chain.create(self.folder / "store", ROOT)
        self.model: dict[bytes, tuple[Lane, bytes]] = {}

    def teardown(self) -> None:
        self.chain.close()
        log_module.SEGMENT_TARGET = self.target
        shutil.rmtree(self.folder)

    def key(self, name: bytes) -> bytes:
        return self.chain.object_key(b"T", name)

    def row(self, name: bytes) -> bytes:
        return self.chain.group_key(b"G", b"the only set") + self.key(name)

    @rule(changes=st.dictionaries(names, st.tuples(st.sampled_from(list(Lane)), bodies, st.booleans()), min_size=1))
    def commit(self, changes: dict[bytes, tuple[Lane, bytes, bool]]) -> None:
        batch = []
        for name, (lane, body, compress) in changes.items():
            kept = self.model[name][0] if name in self.model else lane  # an object stays on its lane
            full = self.row(name) + body if kept == Lane.META else body
            terms = terms_of(False, full) if kept == Lane.META else ()
            batch.append(Change(self.key(name), kept, full, compress=compress, terms=terms))
            self.model[name] = kept, full
        self.chain.commit(batch)

    @rule(name=names)
    def end(self, name: bytes) -> None:
        if name in self.model:
            lane, body = self.model.pop(name)
            epitaph = body[:32] if lane == Lane.META else b""
            terms = terms_of(True, epitaph) if lane == Lane.META else ()
            self.chain.commit([Change(self.key(name), lane, epitaph, tombstone=True, terms=terms)])

    @rule()
    def barrier(self) -> None:
        assert self.chain.barrier() == self.chain.head.sequence

    @rule()
    def checkpoint(self) -> None:
        self.chain.checkpoint()

    @rule(rebuild=st.booleans(), clean=st.booleans())
    def reopen(self, rebuild: bool, clean: bool) -> None:
        if clean:
            self.chain.close()
        else:
            crash(self.chain)
        if rebuild:
            shutil.rmtree(self.folder / "store" / "view")
        self.chain = Chain.open(self.folder / "store", ROOT, terms=terms_of)

    @invariant()
    def answers_as_the_model(self) -> None:
        for name in (b"a", b"b", b"c", b"d", b"e"):
            expected = self.model.get(name)
            assert self.chain.load(self.key(name)) == (expected[1] if expected else None)
            assert self.chain.exists(self.key(name)) == (expected is not None)
        rows = {self.key(n): body[32:] for n, (lane, body) in self.model.items() if lane == Lane.META}
        assert self.chain.members(self.chain.group_key(b"G", b"the only set")) == rows
        for lane in Lane:
            assert self.chain.object_count(lane) == sum(kind == lane for kind, _ in self.model.values())


TestChainModel = ChainMachine.TestCase
TestChainModel.settings = settings(max_examples=40, stateful_step_count=30)
