"""Errors on their way from a node to a client: a code, words, and the same class at the other end."""

from __future__ import annotations

from typing import Final

from atedb.chain.position import Position
from atedb.errors import (
    AteError,
    BusyError,
    FencedError,
    InvalidError,
    LimitError,
    NoSpaceError,
    QuotaError,
    StaleDocumentError,
    StaleError,
    StoreExistsError,
    StoreNotFoundError,
    UnsupportedError,
)
from atedb.net.errors import (
    DeadlockError,
    NoLocksError,
    ProtocolError,
    RateError,
    RefusedError,
    UnavailableError,
)
from atedb.net.messages import MAX_TEXT, Failed, Goodbye

_CLASSES: Final[dict[str, type[AteError]]] = {
    "busy": BusyError,
    "deadlock": DeadlockError,
    "exists": StoreExistsError,
    "fenced": FencedError,
    "invalid": InvalidError,
    "limit": LimitError,
    "no-locks": NoLocksError,
    "not-found": StoreNotFoundError,
    "quota": QuotaError,
    "rate": RateError,
    "refused": RefusedError,
    "stale": StaleDocumentError,
    "unavailable": UnavailableError,
    "version": UnsupportedError,
}

# What these say names no place of the node's: their own words are passed on. Others are the node's own business.
_OPEN_CODES = frozenset(
    {"busy", "deadlock", "fenced", "invalid", "limit", "no-locks", "quota", "rate", "refused", "unavailable", "version"}
)
_WORDS = {
    "exists": "there is another chain at this path already; nothing was changed",
    "not-found": "there is no chain at this path",
    "stale": "somebody else was first; nothing was changed",
    "unavailable": "the server cannot do it now; whoever runs it finds the reason in its log",
}


def failed(request: int, error: AteError) -> Failed:
    """What a client is told of `error`."""
    code = error.code if error.code in _CLASSES else "unavailable"
    text = (
        str(error)
        if code in _OPEN_CODES and isinstance(error, (_CLASSES[code], ProtocolError))
        else _WORDS.get(code, code)
    )
    if isinstance(error, NoSpaceError):
        text = "the server's disk is full"
    tail = (error.tail[0], error.tail[1]) if isinstance(error, StaleError) else None
    return Failed(request, code, text[:MAX_TEXT], tail)


def error_of(answer: Failed | Goodbye) -> AteError:
    """The error that a node told of. Its words are shown without what could steer a terminal."""
    if isinstance(answer, Failed) and answer.tail is not None:
        return StaleError(Position(*answer.tail))
    kind = _CLASSES.get(answer.code)
    if kind is None:
        return ProtocolError(f"the server answers with {answer.code!r}, which this program does not know")
    return kind("".join(letter if letter.isprintable() else "?" for letter in answer.text))
