"""The recovery code: a key that a person can copy from paper.

``ATER-`` and nine groups of five symbols, such as ``ATER-7ZK4M-...``. A group is four symbols of data (20 bits)
and one check symbol, so that a slip of the pen is found, and named by its group, before any key is tried.
180 random bits in all.

The symbols are Crockford's base32 (Douglas Crockford, "Base 32", https://www.crockford.com/base32.html): no I, L, O
or U; upper and lower case are one, I and L read as 1, O as 0. The check symbol is a weighted sum over GF(2^5), with
the group's number mixed in: every single wrong symbol, every two exchanged symbols inside a group and every
exchange of two whole groups are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from atedb.crypto.aead import random_bytes
from atedb.errors import WrongSecretError

PREFIX = "ATER"
GROUPS = 9
DATA_SYMBOLS = 4
GROUP_SIZE = DATA_SYMBOLS + 1

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {symbol: value for value, symbol in enumerate(_ALPHABET)} | {"I": 1, "L": 1, "O": 0}
_SEPARATORS = " -_.\t\r\n\u2010\u2011\u2012\u2013\u2014\u00a0"
_POLYNOMIAL = 0b100101  # x^5 + x^2 + 1, irreducible over GF(2)


class RecoveryCodeError(WrongSecretError):
    """A recovery code that cannot be right: wrong length, wrong symbol, or a check symbol that does not fit."""


def generate_code(randomness: Callable[[int], bytes] = random_bytes) -> str:
    """A new recovery code of 180 bits, in the form that is printed. randomness: size -> that many bytes."""
    bits = int.from_bytes(randomness(23), "little")
    groups = []
    for number in range(GROUPS):
        data = [bits >> 5 * (number * DATA_SYMBOLS + place) & 31 for place in range(DATA_SYMBOLS)]
        groups.append("".join(_ALPHABET[value] for value in [*data, _check(number, data)]))
    return "-".join([PREFIX, *groups])


def parse_code(text: str) -> str:
    """The code in the form that is printed, from what somebody typed.

    Case, spaces, dashes and a missing prefix do not matter, nor O for 0, I or L for 1. Raises RecoveryCodeError, which
    says which group is wrong and repeats nothing of the code.
    """
    groups = _split(text)
    wrong = [str(number + 1) for number, group in enumerate(groups[:GROUPS]) if not _fits(number, group)]
    if len(groups) == GROUPS and not wrong:
        return "-".join([PREFIX, *("".join(_ALPHABET[_VALUES[symbol]] for symbol in group) for group in groups)])
    where = f"group {wrong[0]} is" if len(wrong) == 1 else f"groups {', '.join(wrong)} are"
    what = f"{where} mistyped" if wrong and len(groups) == GROUPS else _miscounted(groups, wrong)
    raise RecoveryCodeError(
        f"this is not a recovery code as it was printed: {what}; nothing was tried and nothing was changed; "
        "compare it with the printed code and type it again"
    )


def looks_like_code(text: str) -> bool:
    """Whether somebody meant to type a recovery code: the check symbols of most groups fit.

    Of other texts with nine times five symbols, one in a quarter of a million does as well.
    """
    fitting = sum(_fits(number, group) for number, group in enumerate(_split(text)[:GROUPS]))
    return fitting > GROUPS // 2


def _split(text: str) -> list[str]:
    """The groups as typed; where the typed separators do not make nine of them, every five symbols are one."""
    for separator in _SEPARATORS:
        text = text.replace(separator, " ")
    words = text.upper().split()
    joined = "".join(words)
    # The prefix is itself four symbols of the alphabet, so without the separator only the length tells.
    if words and words[0] == PREFIX:
        words = words[1:]
    elif joined.startswith(PREFIX) and len(joined) == len(PREFIX) + GROUPS * GROUP_SIZE:
        words = [joined[len(PREFIX) :]]
    if len(words) == GROUPS:
        return words
    joined = "".join(words)
    return [joined[start : start + GROUP_SIZE] for start in range(0, len(joined), GROUP_SIZE)]


def _fits(number: int, group: str) -> bool:
    if len(group) != GROUP_SIZE or any(symbol not in _VALUES for symbol in group):
        return False
    *data, check = (_VALUES[symbol] for symbol in group)
    return check == _check(number, data)


def _miscounted(groups: list[str], wrong: list[str]) -> str:
    count = sum(map(len, groups))
    first = f", and the first that does not fit is in group {wrong[0]}" if wrong else ""
    return f"it has {count} symbols where {GROUPS} groups of {GROUP_SIZE} make {GROUPS * GROUP_SIZE}{first}"


def _check(number: int, data: Iterable[int]) -> int:
    """number + sum of x^(place + 1) * symbol over GF(2^5): the weights differ, so that an exchange of two shows."""
    total = number
    for place, value in enumerate(data, 1):
        total ^= _times_power(value, place)
    return total


def _times_power(value: int, exponent: int) -> int:
    """value * x^exponent in GF(2^5)."""
    for _ in range(exponent):
        value <<= 1
        if value & 32:
            value ^= _POLYNOMIAL
    return value
