"""Where things lie, and what mount options mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from atefs.mount import mountinfo, places
from atefs.mount.options import MountOptions, OptionError, parse


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/root/vault", "root-vault"),
        ("/", "-"),
        ("//a//b/", "a-b"),
        ("/a-b", "a\\x2db"),
        ("/.hidden", "\\x2ehidden"),
        ("/a.b", "a.b"),
        ("/ä", "\\xc3\\xa4"),
        ("/with space", "with\\x20space"),
    ],
)
def test_a_vault_is_named_as_systemd_escapes_paths(path: str, name: str) -> None:
    assert places.escape(Path(path)) == name


def test_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("ATE_HOME", "/chains")
    assert places.chains_home() == Path("/chains")
    monkeypatch.delenv("ATE_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert places.chains_home() == Path("/data/ate")
    monkeypatch.setenv("XDG_DATA_HOME", "relative, which the specification says to ignore")
    assert places.chains_home() == home / ".local/share/ate"
    monkeypatch.delenv("ATE_CONFIG")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert places.config_home() == home / ".config/ate"


def test_a_control_socket_has_a_short_path_whatever_the_mount_point() -> None:
    assert len(places.socket_name(Path("/" + "long/" * 500))) < 32
    assert places.socket_name(Path("/a")) != places.socket_name(Path("/b"))


def test_a_mount_point_reached_through_a_link_is_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert places.canonical(tmp_path / "link") == places.canonical(tmp_path / "real")
    assert places.canonical(tmp_path / "link/inside") == tmp_path.resolve() / "real/inside"


def test_a_replica_lies_where_a_local_vault_would() -> None:
    assert places.store_of(Path("/m"), "ws://server:5000/db/you/vault") == places.vault_of(Path("/m"))
    assert places.names_server("ws://server:5000/db/you/vault")
    assert not places.names_server("file:///srv/vault")
    assert places.store_of(Path("/m"), "file:///store") == Path("/store")
    assert places.store_of(Path("/m"), "/store") == Path("/store")
    assert places.store_of(Path("/m"), None).name == "m"


def test_mountinfo_is_read_with_its_escapes() -> None:
    line = rb"36 35 0:42 / /mnt/a\040b\011c rw,nosuid master:1 - fuse.atefs atefs rw,user_id=0"
    (mount,) = mountinfo.parse(line + b"\n")
    assert mount.mountpoint == Path("/mnt/a b\tc")
    assert mount.ours
    assert (mount.device, mount.minor) == ("0:42", 42)
    assert {"nosuid", "user_id=0"} <= mount.options


def test_what_is_mounted_now_is_found() -> None:
    assert mountinfo.find(Path("/proc")) is not None
    assert mountinfo.find(Path("/proc/self")) is None
    assert mountinfo.covering(Path("/proc/self")) is None


def test_options_as_in_fstab() -> None:
    text = (
        "defaults,noauto,nofail,_netdev,user,ro,allow_other,nosuid,x-systemd.automount,passphrase-file=/a,key-file=/b"
    )
    options = parse([text])
    assert options == MountOptions(
        read_only=True, allow_other=True, passphrase_file=Path("/a"), key_file=Path("/b"), kernel=frozenset(["nosuid"])
    )


def test_the_later_option_wins() -> None:
    assert not parse(["ro", "rw"]).read_only
    assert [parse([text]).acl for text in ("", "noacl", "acl,noacl", "noacl,acl")] == [True, False, False, True]
    assert parse(["nosuid"], MountOptions(read_only=True)).read_only


def test_an_unknown_option_is_named_unless_told_to_be_sloppy() -> None:
    with pytest.raises(OptionError, match="'nonsense'") as refused:
        parse(["ro,nonsense"])
    assert refused.value.exit_code == ExitCode.USAGE
    assert parse(["ro,nonsense"], sloppy=True).read_only


def test_a_private_folder_is_closed_to_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert places.private_folder(tmp_path / "a").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
