"""A real server with a certificate, and real mounts of `wss://` addresses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from tests.net.certificates import certificate, halves
from tests.system.mounted import until
from tests.system.replicas import Machines
from tests.system.solo import Solo

pytestmark = pytest.mark.needs("fuse")


def secured(solo: Solo, folder: Path) -> tuple[Path, str]:
    """Start the server anew, with a certificate; its file, and the address of a chain."""
    own, key = halves(certificate(folder))
    solo.stop()
    solo.start(f"--tls-certificate={own}", environment={"ATEDB_TLS_KEY": str(key)})
    url = str(solo.url()).replace("ws://", "wss://")
    assert f"Serving chains on wss://127.0.0.1:{solo.port}/db/" in solo.out.read_text()
    return own, url


def test_a_mount_comes_by_tls_and_trusts_the_authorities_of_its_configuration(
    machines: Machines, solo: Solo, tmp_path: Path
) -> None:
    own, url = secured(solo, tmp_path)
    a, b = machines("a"), machines("b")
    shutil.copy(own, a.home / "config" / "authorities.pem")
    b.env["SSL_CERT_FILE"] = str(own)
    a.mount(url=url)
    b.mount(url=url)
    (a / "file").write_text("inside of TLS")
    until((b / "file").exists, "the file", 10)
    assert (b / "file").read_text() == "inside of TLS"
    for machine in (a, b):
        machine.umount()
        assert machine.complaints() == []
    assert solo.complaints() == []


def test_a_server_for_which_nobody_vouches_is_not_talked_to(machines: Machines, solo: Solo, tmp_path: Path) -> None:
    _, url = secured(solo, tmp_path)
    a = machines("a")
    refused = a.atefs("mount", a.path, url, check=False)
    assert refused.returncode not in (ExitCode.OK, ExitCode.FAILED)
    assert "certificate" in refused.stderr
    assert not (a.home / "config" / "servers").exists()
