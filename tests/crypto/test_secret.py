"""A secret does not show itself."""

from __future__ import annotations

import pickle
import traceback

import pytest

from atedb.crypto.recovery_code import RecoveryCodeError, generate_code
from atedb.crypto.secret import MAX_SECRET_SIZE, Secret, SecretKind
from atedb.errors import LimitError

CANARY = "xyzzy-canary"


def test_no_rendering_of_a_secret_contains_it() -> None:
    secret = Secret.passphrase(CANARY)
    for shown in (repr(secret), str(secret), f"{secret}", f"{[secret]}", repr(secret.__class__)):
        assert CANARY not in shown
    assert repr(secret) == "Secret(passphrase)"


def test_a_traceback_with_local_variables_does_not_show_a_secret() -> None:
    def fail(secret: Secret) -> None:
        raise RuntimeError(f"with {secret!r}")

    with pytest.raises(RuntimeError) as caught:
        fail(Secret.passphrase(CANARY))
    # The frame of this test is left out: the source line above names the canary's constant only.
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "secret = Secret(passphrase)" in shown
    assert CANARY not in shown


def test_a_secret_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="not written anywhere"):
        pickle.dumps(Secret.passphrase(CANARY))


def test_wiping_overwrites_the_copy_held() -> None:
    secret = Secret.passphrase(CANARY)
    held = secret._value
    view = memoryview(held)
    with pytest.raises(BufferError):
        secret.wipe()  # the buffer is exported here, so that it can be overwritten but not shortened
    assert bytes(view) == bytes(len(CANARY))
    view.release()
    secret.wipe()
    assert len(secret) == 0


def test_leaving_a_with_block_wipes() -> None:
    with Secret.passphrase(CANARY) as secret:
        assert secret.reveal() == CANARY.encode()
    assert secret.reveal() == b""


def test_typed_text_and_a_files_bytes_are_one_passphrase() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    values = {
        Secret.passphrase(text).reveal() for text in (composed, decomposed, composed.encode(), decomposed.encode())
    }
    assert values == {composed.encode()}


def test_bytes_that_are_not_utf8_are_taken_as_they_are() -> None:
    assert Secret.passphrase(b"\xff\x00pass").reveal() == b"\xff\x00pass"
    assert Secret.passphrase(b"\xffpass".decode(errors="surrogateescape")).reveal() == b"\xffpass"


def test_a_prompt_takes_a_recovery_code_or_a_passphrase() -> None:
    code = generate_code()
    assert Secret.typed(code.lower()).kind is SecretKind.RECOVERY
    assert Secret.typed(code.lower()).reveal() == code.encode()
    assert Secret.typed("correct horse").kind is SecretKind.PASSPHRASE


def test_a_mistyped_recovery_code_is_not_taken_for_a_passphrase() -> None:
    code = generate_code(bytes)
    with pytest.raises(RecoveryCodeError, match="group 2 is mistyped"):
        Secret.typed(code[:11] + "9" + code[12:])


def test_a_secret_larger_than_the_bound_is_refused() -> None:
    with pytest.raises(LimitError, match="larger than"):
        Secret.key_file(bytes(MAX_SECRET_SIZE + 1))
