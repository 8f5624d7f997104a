"""How quick the sealing suites, the hash and Argon2id are on this machine: the table in docs/performance.md.

.venv/bin/python tests/bench/ciphers.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

from atedb.crypto.aead import AES_256_GCM, XCHACHA20_POLY1305, cipher, preferred_suite, random_bytes
from atedb.crypto.hashing import digest
from atedb.crypto.secret import Secret
from atedb.crypto.slot import KdfParams, stretch

SIZES = {"4 KiB": 4 << 10, "128 KiB": 128 << 10, "1 MiB": 1 << 20}
SECONDS = 0.3
ROUNDS = 5


def best(call: Callable[[], object]) -> float:
    """Seconds that one call takes, in the best of a few rounds."""
    times = []
    for _ in range(ROUNDS):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS / ROUNDS:
            call()
            count += 1
        times.append((time.perf_counter() - start) / count)
    return min(times)


def main() -> None:
    """Print the table."""
    print(f"preferred here: {preferred_suite()}\n")
    print("| | " + " | ".join(SIZES) + " |")
    print("|---" * (len(SIZES) + 1) + "|")
    bodies = {name: random_bytes(size) for name, size in SIZES.items()}
    works: dict[str, Callable[[bytes], object]] = {"BLAKE3": digest}
    for suite in (AES_256_GCM, XCHACHA20_POLY1305):
        sealer = cipher(suite, random_bytes(32))
        # One number for all: these bodies are sealed to be timed and thrown away.
        works[suite] = lambda body, sealer=sealer: sealer.seal(0, body, b"bound")  # type: ignore[misc]
    for name, work in works.items():
        cells = []
        for body in bodies.values():
            seconds = best(lambda work=work, body=body: work(body))  # type: ignore[misc]
            cells.append(f"{seconds * 1e6:.1f} us, {len(body) / seconds / 1e9:.1f} GB/s")
        print(f"| {name} | " + " | ".join(cells) + " |")
    secret, kdf = Secret.passphrase("correct horse"), KdfParams()
    print(f"\nArgon2id, {kdf.opslimit} passes over {kdf.memlimit >> 20} MiB: "
          f"{best(lambda: stretch(secret, bytes(16), kdf)) * 1e3:.0f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
