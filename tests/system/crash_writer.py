"""A writer for the crash tests: argv is the mount point and a file outside of it, for what was synced.

Step n makes the file n, whose content follows from n, replaces `counter` by n, and removes the file of step n - 8. Now
and then a step is synced, and only then noted.
"""

import json
import os
import sys

base, notes = sys.argv[1], sys.argv[2]
folder = os.path.join(base, "files")
os.makedirs(folder, exist_ok=True)
start = max((int(name) for name in os.listdir(folder)), default=0) + 1
counter = os.path.join(base, "counter")


def count(number: int) -> None:
    with open(counter + ".new", "wb") as file:
        file.write(str(number).encode())
    os.rename(counter + ".new", counter)


def clear(oldest: int) -> None:
    for name in os.listdir(folder):
        if int(name) < oldest:
            os.unlink(os.path.join(folder, name))


# A crash may have come in the middle of a step: finish it.
count(start - 1)
clear(start - 8)
journal = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
for n in range(start, start + 10**6):
    with open(os.path.join(folder, str(n)), "wb") as file:
        file.write(str(n).encode() * (n * 37 % 5000 + 1))
        if n % 5 == 0:
            file.flush()
            os.fsync(file.fileno())
            os.write(journal, json.dumps({"synced": n}).encode() + b"\n")
    count(n)
    if os.path.exists(os.path.join(folder, str(n - 8))):
        os.unlink(os.path.join(folder, str(n - 8)))
