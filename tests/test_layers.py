"""The rules of the house: what may import what, how long a module may be, what starting a program may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("atedb", "atefs", "tui")
MAX_LINES = 600

# What a layer may import of ours, besides itself: only what stands below it.
BELOW: dict[str, set[str]] = {
    "atedb": set(),
    "atedb.errors": set(),
    "atedb.threads": set(),
    "atedb.crypto": {"atedb.errors"},
    "atedb.account": {"atedb.errors", "atedb.crypto"},
    "atedb.chain": {"atedb.errors", "atedb.crypto"},
    "atedb.engine": {"atedb.errors", "atedb.threads", "atedb.crypto", "atedb.chain"},
    "atedb.net": {"atedb.errors", "atedb.crypto", "atedb.chain"},
    "atedb.daemon": set(),
    "atedb.node": {
        "atedb.errors",
        "atedb.threads",
        "atedb.crypto",
        "atedb.account",
        "atedb.chain",
        "atedb.engine",
        "atedb.net",
        "atedb.daemon",
    },
    "atedb.testing": {"atedb.errors", "atedb.crypto", "atedb.chain", "atedb.net"},
    "atedb.cli": {
        "atedb",
        "atedb.errors",
        "atedb.crypto",
        "atedb.account",
        "atedb.chain",
        "atedb.node",
        "atedb.daemon",
    },
    "atefs": set(),
    "atefs.errors": {"atedb.errors"},
    "atefs.vault": {"atefs.errors", "atedb.errors", "atedb.crypto", "atedb.chain"},
    "atefs.mount": {
        "atefs.errors",
        "atefs.vault",
        "atedb.errors",
        "atedb.threads",
        "atedb.crypto",
        "atedb.account",
        "atedb.chain",
        "atedb.net",
        "atedb.daemon",
    },
    "atefs.cli": {
        "atefs",
        "atefs.errors",
        "atefs.vault",
        "atefs.mount",
        "atedb.errors",
        "atedb.crypto",
        "atedb.account",
        "atedb.chain",
        "atedb.cli",
        "atedb.net",
        "atedb.daemon",
    },
    "tui": set(),
}

# Which layers alone may import a module that is not ours.
RESERVED: dict[str, set[str]] = {
    "cryptography": {"atedb.crypto"},
    "nacl": {"atedb.crypto"},
    "blake3": {"atedb.crypto"},
    "hashlib": {"atedb.crypto"},
    "hmac": {"atedb.crypto"},
    "random": {"atedb.testing"},
    "lmdb": {"atedb.chain", "atedb.node"},
    "websockets": {"atedb.net"},
    "pyfuse3": {"atefs.mount"},
    "trio": {"atedb.threads", "atefs.mount", "atefs.cli", "atedb.engine", "atedb.net", "atedb.node", "atedb.testing"},
    "h11": {"atedb.node"},
    "socket": {"atedb.daemon", "atefs.mount", "atefs.cli"},
    "click": {"atedb.cli", "atefs.cli", "tui"},
    "asyncio": set(),
}

HEAVY = ("blake3", "cryptography", "h11", "lmdb", "msgspec", "nacl", "pyfuse3", "trio", "websockets", "zstandard")


def modules() -> dict[str, Path]:
    """Every module of ours, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def layer_of(name: str) -> str:
    """The layer a module of ours belongs to: its package, or itself right below the top."""
    top, _, rest = name.partition(".")
    return ".".join([top, *rest.split(".")[:1]]) if rest and top != "tui" else top


def imports(name: str, tree: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """The dotted names of everything that the module `name` imports in `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; the rule reads full names"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module


def at_import_time(tree: ast.Module) -> ast.Module:
    """The statements that run when the module is imported: not those in functions, nor those for the type checker."""
    kept = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return ast.Module(body=kept, type_ignores=[])


def broken_rules(name: str, source: str, known: dict[str, Path]) -> list[str]:
    """What the module `name` with the text `source` imports and may not."""
    layer = layer_of(name)
    broken = []
    for imported in imports(name, ast.parse(source), known):
        top = imported.split(".")[0]
        if top in PACKAGES:
            if layer_of(imported) != layer and layer_of(imported) not in BELOW[layer]:
                broken.append(f"{name} imports {imported}")
        elif top in RESERVED and layer not in RESERVED[top]:
            broken.append(f"{name} imports {imported}")
    return broken


def test_every_layer_has_its_rule() -> None:
    assert {layer_of(name) for name in modules()} <= set(BELOW)


def test_imports_point_one_way() -> None:
    known = modules()
    assert [rule for name, path in known.items() for rule in broken_rules(name, path.read_text(), known)] == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("atedb.crypto.aead", "from atedb.chain.chain import Chain"),
        ("atedb.chain.chain", "import atefs.vault.vault"),
        ("atefs.vault.vault", "def late():\n    import atefs.mount.driver"),
        ("atefs.vault.vault", "from atedb.net import client"),
        ("atefs.vault.vault", "import trio"),
        ("atefs.vault.vault", "import socket"),
        ("atefs.mount.driver", "from cryptography.hazmat.primitives import hashes"),
        ("atedb.chain.chain", "import nacl.bindings"),
        ("atedb.chain.chain", "from blake3 import blake3"),
        ("tui.main", "import atedb.errors"),
    ],
)
def test_the_rule_finds_what_breaks_it(name: str, source: str) -> None:
    assert broken_rules(name, source, modules())


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty where there are none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return trail[trail.index(name) :]
        if name in done:
            return []
        for other in sorted(edges[name]):
            found = visit(other, [*trail, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in edges if (found := visit(name, []))), [])


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    edges = {
        name: {other for other in imports(name, at_import_time(ast.parse(path.read_text())), known) if other in known}
        for name, path in known.items()
    }
    assert cycle(edges) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_no_module_is_longer_than_allowed() -> None:
    files = [*modules().values(), *sorted((ROOT / "tests").rglob("*.py"))]
    assert [str(path) for path in files if len(path.read_text().splitlines()) > MAX_LINES] == []


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )


def test_every_module_can_be_imported_without_a_warning() -> None:
    ran = run("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in modules()))
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("entry", ["atefs.cli.main", "atedb.cli.main", "tui.main"])
def test_help_loads_nothing_heavy(entry: str) -> None:
    ran = run(
        f"import sys\nfrom {entry} import main\nsys.argv = ['program', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('heavy:', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-1] == "heavy: []"
