"""The supervisor of the embedded PostgreSQL server: started when needed, shared by all, found by connecting.

Lives here: `LocalPostgres`, the supervisor of one data folder under `OHLCV_HOME`. Does not: what the operating system
knows of the server (postgres_process.py), the databases in it (local_postgres.py), or any table (migrations/).

The rules, each from a way that it went wrong elsewhere. A server is alive when it answers on its port, takes our
password and serves our data folder; a process id proves nothing. One that is starting, recovering or stopping is
waited for. Nothing stops the server at exit, for other processes use it: `down` does. Under `home/postgres`:

    server.lock         held while a process starts or stops the server
    password            of the superuser `ohlcv`, mode 0600; `dagster_password` likewise
    port                on 127.0.0.1, kept from start to start as long as it is free
    cluster/            owned by the server's account: data/ and server.log
    location            only where root's server cannot reach `cluster/`: the folder that replaces it
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg
from filelock import FileLock, Timeout

from ohlcv_assets.errors import DatabaseUnavailable, Refused
from ohlcv_assets.logs import get_logger
from ohlcv_assets.storage import postgres_process as process
from ohlcv_assets.storage.postgres_process import Account

_log = get_logger()

#: The superuser, and owner of the bars.
USER = "ohlcv"
#: Crash recovery replays at most some 2 GB of log.
_PATIENCE_S = 120.0
_LOG_LIMIT_BYTES = 10_000_000
#: What PostgreSQL says when starting again, a moment later or on another port, helps.
_PASSING = ("could not bind", "pre-existing shared memory block", "lock file", "could not create any TCP/IP sockets")
_CONFIGURATION = """\
# Written by ohlcv_assets at every start; ALTER SYSTEM overrides it.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 200
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
log_line_prefix = '%m [%p] %u@%d '
max_wal_size = '2GB'
"""


@dataclass(frozen=True)
class LocalServer:
    """Where a running server listens, and who may ask it anything."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    data_directory: Path

    def url(self, database: str) -> str:
        """The address of one of its databases: postgresql://user:password@host:port/database."""
        return address(self.user, self.password, self.port, database)


@dataclass(frozen=True)
class PostgresStatus:
    """What a person asks of the server; `pid`, `port` and `version` are None while it does not run."""

    running: bool
    pid: int | None
    port: int | None
    version: str | None
    data_directory: Path


class LocalPostgres:
    """The server of one home. Any number of processes may hold one of these for the same home.

    Args:
        home: the folder of everything local (`OHLCV_HOME`); made when it is needed.
    """

    def __init__(self, home: Path) -> None:
        self._home = home.resolve()
        self._folder = self._home / "postgres"

    def up(self) -> LocalServer:
        """The server, running: found, waited for, started, or made and started.

        Raises:
            DatabaseUnavailable: it does not start; the message ends with what it wrote to its log.
            Refused: there is no server program, or no account that may run it.
        """
        server = self._answering()
        if server is not None:
            return server
        with self._locked():
            return self._started()

    def recovered(self) -> LocalServer | None:
        """The server, started again if it died; None when it was stopped, or starts or stops at this moment.

        Whoever loses a connection may call this: it never works against a person who stopped the server.

        Raises:
            DatabaseUnavailable: it does not start.
        """
        if not process.was_left_running(self._data):
            return self._answering()
        with self._locked():
            return self._started() if process.was_left_running(self._data) else self._answering()

    def down(self) -> bool:
        """Stop the server (sessions are cut, transactions rolled back); False when there was none to stop.

        Raises:
            DatabaseUnavailable: it does not stop.
        """
        if not self._folder.is_dir():
            return False
        with self._locked():
            if process.holder(self._data) is None:
                # Only a lock file that proves our server may lead pg_ctl to a process.
                if self._answering() is None:
                    return False
                raise DatabaseUnavailable(
                    f"the lock file of {self._data} was overwritten under its server",
                    hint="wait a minute: the server sees it and ends by itself",
                )
            ended = self._pg_ctl("stop", "-m", "fast", "-w", "-t", "60")
            if ended.returncode != 0 and process.holder(self._data) is not None:
                raise DatabaseUnavailable(
                    f"PostgreSQL does not stop: {ended.stderr.strip()}", hint=f"read {self._log_file}"
                )
            _log.info("postgres stopped", data_directory=str(self._data))
            return True

    def status(self) -> PostgresStatus:
        """Whether the server answers, and where it is; changes nothing."""
        server = self._answering()
        if server is None:
            return PostgresStatus(False, None, None, None, self._data)
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            version = connection.info.parameter_status("server_version")
        return PostgresStatus(True, process.holder(self._data), server.port, version, self._data)

    def password_of(self, role: str) -> str:
        """The password of a role of ours, made at the first call and kept in a file of mode 0600."""
        path = self._folder / f"{role}_password"
        with self._locked():
            return _kept_secret(path)

    # Where things are -------------------------------------------------------------------------------------------

    @property
    def _cluster(self) -> Path:
        location = self._folder / "location"
        return Path(location.read_text(encoding="utf-8")) if location.is_file() else self._folder / "cluster"

    @property
    def _data(self) -> Path:
        return self._cluster / "data"

    @property
    def _log_file(self) -> Path:
        return self._cluster / "server.log"

    @property
    def _kept_port(self) -> int | None:
        path = self._folder / "port"
        return int(path.read_text(encoding="utf-8")) if path.is_file() else None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "server.lock", timeout=2 * _PATIENCE_S):
                yield
        except Timeout as error:
            raise DatabaseUnavailable(
                f"another process has held {self._folder / 'server.lock'} for {2 * _PATIENCE_S:.0f} s",
                hint="look which process starts or stops the server",
            ) from error
        except PermissionError as error:
            raise Refused(
                f"{error.filename} is not ours to use",
                hint="run as the user who made it, or set OHLCV_HOME to a folder of your own",
            ) from error

    # Whether it lives -------------------------------------------------------------------------------------------

    def _answering(self) -> LocalServer | None:
        """The server, when one answers on our port, takes our password and serves our data folder."""
        password_file = self._folder / "password"
        if not password_file.is_file():
            return None
        try:
            password = password_file.read_text(encoding="utf-8")
        except PermissionError as error:
            raise Refused(
                f"{password_file} is not ours to read", hint="run as the user who started the server"
            ) from error
        ports = dict.fromkeys(port for port in (self._kept_port, process.locked_port(self._data)) if port)
        servers = (LocalServer("127.0.0.1", port, USER, password, self._data) for port in ports)
        return next((server for server in servers if _is_ours(server)), None)

    # Starting ---------------------------------------------------------------------------------------------------

    def _started(self) -> LocalServer:
        deadline_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline_s:
            server = self._answering()
            if server is not None:
                return server
            if not self._data.is_dir():
                self._make()
            if process.holder(self._data) is None:
                self._launch()
            else:
                time.sleep(0.05)
        raise DatabaseUnavailable(
            f"PostgreSQL does not answer after {_PATIENCE_S:.0f} s: {self._log_tail(0)}",
            hint=f"read {self._log_file}",
        )

    def _launch(self) -> None:
        """Start the server once; returns also when another try may help."""
        process.set_foreign_lock_aside(self._data)
        account = Account.of_owner(self._data)
        port = process.free_port(self._kept_port)
        configuration = self._data / "ohlcv.conf"
        configuration.write_text(_CONFIGURATION.format(port=port), encoding="utf-8")
        account.own(configuration, 0o600)
        _replace(self._folder / "port", str(port), mode=0o644)
        if self._log_file.is_file() and self._log_file.stat().st_size > _LOG_LIMIT_BYTES:
            self._log_file.replace(self._log_file.with_suffix(".log.1"))
        log_start = self._log_file.stat().st_size if self._log_file.is_file() else 0
        started = self._pg_ctl("start", "-w", "-t", "60", "-l", str(self._log_file))
        if started.returncode == 0:
            _log.info("postgres started", port=port, data_directory=str(self._data))
            return
        said = self._log_tail(log_start) or started.stderr.strip()
        if process.holder(self._data) is None and not any(words in said for words in _PASSING):
            raise DatabaseUnavailable(f"PostgreSQL does not start: {said}", hint=f"read {self._log_file}")
        _log.warning("postgres did not start at once", port=port, said=said)
        time.sleep(0.1)

    def _make(self) -> None:
        """Make the data folder: whole or not at all, so that a kill in between leaves nothing half made."""
        account = Account.for_new_data()
        if not (self._folder / "location").is_file() and not account.reaches(self._folder):
            _replace(self._folder / "location", str(process.system_folder_for(self._home)), mode=0o644)
        cluster = self._cluster
        cluster.mkdir(mode=0o755, parents=True, exist_ok=True)
        account.own(cluster, 0o700)
        partial, password_file = cluster / "data.partial", cluster / "password.partial"
        shutil.rmtree(partial, ignore_errors=True)
        _replace(password_file, _kept_secret(self._folder / "password"), mode=0o600)
        account.own(password_file, 0o600)
        initdb = process.programs(account) / "initdb"
        try:
            made = account.run(
                initdb, "-D", str(partial), "-U", USER, "-A", "scram-sha-256", "--pwfile", str(password_file),
                "--locale=C", "-E", "UTF8",
            )  # fmt: skip
        finally:
            password_file.unlink(missing_ok=True)
        if made.returncode != 0:
            raise DatabaseUnavailable(
                f"initdb failed: {made.stderr.strip()}", hint=f"see that {cluster} is writable and its disk has room"
            )
        with (partial / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write("include = 'ohlcv.conf'\n")
        partial.rename(self._data)
        _log.info("postgres data folder made", data_directory=str(self._data))

    def _pg_ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        account = Account.of_owner(self._data)
        return account.run(process.programs(account) / "pg_ctl", *arguments, "-D", str(self._data))

    def _log_tail(self, start: int) -> str:
        try:
            with self._log_file.open("rb") as log:
                log.seek(start)
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-8:])


def address(user: str, password: str, port: int, database: str) -> str:
    """postgresql://user:password@127.0.0.1:port/database, each part quoted."""
    return (
        f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{port}/{quote(database, safe='')}"
    )


def _is_ours(server: LocalServer) -> bool:
    try:
        # Whoever took our port meanwhile must not be able to ask for the password in clear, nor to hold us up.
        with psycopg.connect(server.url("postgres"), connect_timeout=2, require_auth="scram-sha-256") as connection:
            row = connection.execute("show data_directory").fetchone()
    except psycopg.Error:
        return False
    return row is not None and Path(row[0]).resolve() == server.data_directory.resolve()


def _kept_secret(path: Path) -> str:
    if not path.is_file():
        _replace(path, secrets.token_urlsafe(24), mode=0o600)
    return path.read_text(encoding="utf-8")


def _replace(path: Path, text: str, *, mode: int) -> None:
    """Write a file whole or not at all, never readable for more than `mode` says."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
    partial.replace(path)
