"""What a user is called: an e-mail address, which is also the first part of the paths of their chains."""

from __future__ import annotations

import re

from atedb.errors import AteError, ExitCode

MAX_EMAIL = 100
_EMAIL = re.compile(r"[a-z0-9][a-z0-9._+-]*@[a-z0-9][a-z0-9.-]*")


class EmailError(AteError):
    """A text that cannot be the name of a user."""

    exit_code = ExitCode.USAGE
    code = "invalid"


def require_email(text: str) -> str:
    """The address in lower case. Raises EmailError for one that could not stand in the path of a chain."""
    email = text.strip().lower()
    if len(email) > MAX_EMAIL or not _EMAIL.fullmatch(email) or email.endswith(".chain"):
        raise EmailError(
            f"{text!r} cannot be the name of a user; nothing was changed; take an e-mail address of up to {MAX_EMAIL} "
            "letters, digits and . _ + -, such as you@example.com"
        )
    return email
