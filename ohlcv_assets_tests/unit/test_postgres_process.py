"""What the operating system knows of a server, asked of folders, ports and processes of the test's own."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from ohlcv_assets.storage import postgres_process as process
from ohlcv_assets.storage.migrate import migrations


@pytest.mark.parametrize(
    "content",
    ["", "x", "0\n", "-5\n", f"{os.getpid()}\n", "1\n", "999999999\n"],
    ids=["empty", "text", "zero", "negative", "ours", "init", "nobody's"],
)
def test_lock_file_alone_proves_no_server(tmp_path: Path, content: str) -> None:
    """Whatever process a lock file names, it holds the data folder only when it works in it."""
    (tmp_path / "postmaster.pid").write_text(content)
    assert process.holder(tmp_path) is None


def test_process_that_works_in_the_folder_holds_it(tmp_path: Path) -> None:
    """The living process whose working folder is the data folder is its holder; after its end nobody is."""
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as server:
        (tmp_path / "postmaster.pid").write_text(f"{server.pid}\n/data\n1\n5432\n")
        assert process.holder(tmp_path) == server.pid
        assert not process.was_left_running(tmp_path)
        assert process.locked_port(tmp_path) == 5432
        process.set_foreign_lock_aside(tmp_path)
        assert (tmp_path / "postmaster.pid").exists()
        server.kill()
        # Not reaped yet: a zombie holds nothing either.
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        assert process.holder(tmp_path) is None
        assert process.was_left_running(tmp_path)
        process.set_foreign_lock_aside(tmp_path)
        assert not (tmp_path / "postmaster.pid").exists()


def test_free_port_prefers_the_one_of_before_and_yields_to_who_listens(tmp_path: Path) -> None:
    """The preferred port is given while it is free, and another one of the range while somebody listens on it."""
    preferred = process.free_port(None)
    assert process.free_port(preferred) == preferred
    with socket.create_server(("127.0.0.1", preferred)):
        assert process.free_port(preferred) != preferred


def test_ports_are_not_those_of_outgoing_connections() -> None:
    """A server's port is below the kernel's own range, so that no client can connect to itself on it."""
    kernel = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not kernel.is_file():
        pytest.skip("this kernel does not say which ports it gives away")
    if int(kernel.read_text().split()[0]) < 32_000:
        pytest.skip("this machine gives ports of our range to outgoing connections")
    assert all(process.free_port(None) < int(kernel.read_text().split()[0]) for _ in range(20))


def test_closed_parent_keeps_an_account_out(tmp_path: Path) -> None:
    """An account reaches a folder only through parents that let it pass."""
    stranger = process.Account(user_id=65_000, group_id=65_000)
    folder = tmp_path / "open" / "data"
    folder.mkdir(parents=True)
    for path in (folder, folder.parent):
        path.chmod(0o755)
    tmp_path.chmod(0o700)
    assert not stranger.reaches(folder)
    assert process.Account().reaches(folder)


def test_replacement_folder_of_a_home_is_new_each_time(tmp_path: Path) -> None:
    """Two folders for one home share the part that tells whose they are, and nothing else."""
    first, second = process.system_folder_for(tmp_path), process.system_folder_for(tmp_path)
    assert first != second
    assert first.name.split("-")[0] == second.name.split("-")[0]


def test_migrations_are_numbered_without_gaps() -> None:
    """The files are 0001, 0002, ... each with a name of its own."""
    assert [int(migration.name[:4]) for migration in migrations()] == list(range(1, len(migrations()) + 1))
