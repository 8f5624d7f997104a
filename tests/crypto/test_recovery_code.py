"""The recovery code survives being copied by hand, and says where a copy went wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atedb.crypto.recovery_code import GROUPS, RecoveryCodeError, generate_code, looks_like_code, parse_code

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
codes = st.binary(min_size=23, max_size=23).map(lambda seed: generate_code(lambda size: seed[:size]))


def groups_of(code: str) -> list[str]:
    return code.split("-")[1:]


def test_a_code_is_the_prefix_and_nine_groups_of_five() -> None:
    code = generate_code()
    assert code.startswith("ATER-")
    assert [len(group) for group in groups_of(code)] == [5] * GROUPS
    assert set("".join(groups_of(code))) <= set(ALPHABET)


def test_two_codes_differ_in_every_bit_they_can() -> None:
    zero, ones = generate_code(bytes), generate_code(lambda size: b"\xff" * size)
    data = [group[:4] for group in groups_of(zero)], [group[:4] for group in groups_of(ones)]
    assert data == (["0000"] * GROUPS, ["ZZZZ"] * GROUPS)
    assert generate_code() != generate_code()


@given(codes)
def test_what_is_printed_is_read_again(code: str) -> None:
    assert parse_code(code) == code
    assert looks_like_code(code)


@given(codes, st.sampled_from([" ", "", "-", "\u2013", "\n", " - ", "."]), st.booleans(), st.booleans())
def test_case_separators_and_prefix_do_not_matter(code: str, separator: str, lower: bool, prefix: bool) -> None:
    typed = separator.join(code.split("-") if prefix else groups_of(code))
    assert parse_code(f"  {typed.lower() if lower else typed}\n") == code


@given(codes, st.sampled_from(["Oo", "IiLl"]))
def test_letters_that_look_like_digits_are_those_digits(code: str, letters: str) -> None:
    digit = "0" if letters == "Oo" else "1"
    for letter in letters:
        assert parse_code("ATER-" + "-".join(groups_of(code)).replace(digit, letter)) == code


@given(codes, st.integers(0, GROUPS - 1), st.integers(0, 4), st.sampled_from(ALPHABET))
def test_one_wrong_symbol_is_found_and_its_group_named(code: str, number: int, place: int, symbol: str) -> None:
    groups = groups_of(code)
    if groups[number][place] == symbol:
        return
    groups[number] = groups[number][:place] + symbol + groups[number][place + 1 :]
    with pytest.raises(RecoveryCodeError, match=rf"group {number + 1} is mistyped"):
        parse_code("-".join(["ATER", *groups]))
    with pytest.raises(RecoveryCodeError, match=rf"group {number + 1} is mistyped"):
        parse_code("".join(groups))


@given(codes, st.integers(0, GROUPS - 1), st.integers(0, 4), st.integers(0, 4))
def test_two_exchanged_symbols_are_found(code: str, number: int, first: int, second: int) -> None:
    groups = groups_of(code)
    symbols = list(groups[number])
    symbols[first], symbols[second] = symbols[second], symbols[first]
    if "".join(symbols) == groups[number]:
        return
    groups[number] = "".join(symbols)
    with pytest.raises(RecoveryCodeError, match=rf"group {number + 1} is mistyped"):
        parse_code("-".join(groups))


@given(codes, st.integers(0, GROUPS - 1), st.integers(0, GROUPS - 1))
def test_two_exchanged_groups_are_found(code: str, first: int, second: int) -> None:
    groups = groups_of(code)
    if first == second:
        return
    groups[first], groups[second] = groups[second], groups[first]
    low, high = sorted((first + 1, second + 1))
    with pytest.raises(RecoveryCodeError, match=rf"groups {low}, {high} are mistyped"):
        parse_code("-".join(groups))


def test_a_foreign_symbol_is_a_mistyped_group() -> None:
    code = generate_code(bytes)
    with pytest.raises(RecoveryCodeError, match="group 1 is mistyped"):
        parse_code(code.replace("0", "U", 1))


@pytest.mark.parametrize(("cut", "count"), [(6, 39), (5, 40), (45, 0)])
def test_a_code_of_another_length_is_refused_with_its_count(cut: int, count: int) -> None:
    with pytest.raises(RecoveryCodeError, match=f"it has {count} symbols where 9 groups of 5 make 45"):
        parse_code("".join(groups_of(generate_code()))[: 45 - cut])


def test_a_left_out_symbol_names_the_group_it_is_missing_from() -> None:
    groups = groups_of(generate_code())
    groups[6] = groups[6][1:]
    with pytest.raises(RecoveryCodeError, match="group 7 is mistyped"):
        parse_code("-".join(groups))


@given(codes)
def test_a_complaint_repeats_nothing_of_the_code(code: str) -> None:
    groups = groups_of(code)
    with pytest.raises(RecoveryCodeError) as caught:
        parse_code("-".join(groups[:-1]))
    assert not any(group in str(caught.value) for group in groups)


@given(st.text())
def test_any_text_is_a_code_or_refused(text: str) -> None:
    looks_like_code(text)
    try:
        assert parse_code(parse_code(text)) == parse_code(text)
    except RecoveryCodeError:
        pass


@given(codes, st.sampled_from(["-", " ", ""]), st.sets(st.integers(0, GROUPS - 1), max_size=4))
def test_a_code_with_some_slips_still_looks_like_one(code: str, separator: str, slips: set[int]) -> None:
    groups = ["UUUUU" if number in slips else group for number, group in enumerate(groups_of(code))]
    assert looks_like_code(separator.join(["ater", *groups]))


@pytest.mark.parametrize("text", ["", "correct horse battery staple", "ATER-", "ater-something short", "p" * 45])
def test_a_passphrase_does_not_look_like_a_code(text: str) -> None:
    assert not looks_like_code(text)
