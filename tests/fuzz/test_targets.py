"""Hostile bytes, made by hypothesis: whatever arrives, nothing is raised but the error that the protocol has for it.

`python -m tests.fuzz TARGET` looks for longer, and along the paths that the bytes take (docs/threat-model.md).
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.fuzz.targets import SEEDS, TARGETS

QUICK = ["messages", "frames", "documents"]
SLOW = ["websocket", "session", "client"]


def near(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Any bytes, and a seed with pieces of it replaced, left out or put in."""

    def edited(seed: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
        for at, length, piece in edits:
            start = at % (len(seed) + 1)
            seed = seed[:start] + piece + seed[start + length :]
        return seed

    edits = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 8), st.binary(max_size=8)), max_size=4)
    return st.one_of(st.binary(max_size=400), st.builds(edited, st.sampled_from(seeds), edits))


@pytest.mark.parametrize("name", QUICK)
def test_a_decoder_knows_whatever_it_is_given(name: str) -> None:
    @settings(max_examples=400)
    @given(near(SEEDS[name]))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


@pytest.mark.parametrize("name", SLOW)
def test_an_end_of_a_conversation_survives_whatever_the_other_one_says(name: str) -> None:
    @settings(max_examples=60)
    @given(near(SEEDS[name]))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_right_is_taken(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


def test_an_error_that_is_none_of_the_protocol_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative twin: where a decoder lets an error through, the target does."""

    def careless(data: bytes) -> None:
        raise KeyError(data)

    monkeypatch.setattr(targets, "decode_request", careless)
    with pytest.raises(KeyError):
        TARGETS["messages"](b"")
