"""The platform as a set of servers: PostgreSQL, Dagster's code location, daemon and webserver.

Lives here: in which order they start, with which environment, and how they stop. Does not: what is done with them
(up.py, demo.py).

PostgreSQL is started first and stopped last, and only when it was this platform that started it. Dagster's three
servers share one code location, so that the code is loaded once.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ohlcv_assets.errors import Refused
from ohlcv_assets.platform.dagster_api import DagsterApi
from ohlcv_assets.platform.processes import ServerProcess, free_port, require_free
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.local_postgres import LocalPostgres, bars_url, dagster_url

_READY_S = 120.0


@dataclass
class Platform:
    """The running servers of one deployment.

    Use it as a context manager: leaving it stops what it started, in reverse order.

    Attributes:
        settings: the deployment's settings.
        ui_port: the webserver's port; 0 chooses a free one.
        module: what Dagster loads; a measurement puts its own in place of it.
    """

    settings: Settings
    ui_port: int = 0
    module: str = "ohlcv_assets.definitions"
    servers: list[ServerProcess] = field(default_factory=list)
    _started_postgres: bool = False
    _dagster_url: str = field(default="", repr=False)

    @property
    def home(self) -> Path:
        """Dagster's own folder: instance file, logs."""
        return self.settings.home / "dagster"

    @property
    def ui_url(self) -> str:
        """Where the UI is."""
        return f"http://127.0.0.1:{self.ui_port}"

    @property
    def api(self) -> DagsterApi:
        """Dagster's GraphQL, on the webserver."""
        return DagsterApi(self.ui_url, self.settings.location_name)

    def __enter__(self) -> Platform:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start_postgres(self) -> None:
        """PostgreSQL with both databases, the bars' one migrated."""
        self._started_postgres = not LocalPostgres(self.settings.home).status().running
        url = bars_url(self.settings)
        self._dagster_url = _for_dagster(dagster_url(self.settings))
        database = Database(url)
        database.migrate()
        database.close()

    def start_dagster(self, *, daemon: bool = True) -> None:
        """The code location, then the webserver and, unless told otherwise, the daemon beside it."""
        self.ui_port = self.ui_port or free_port()
        require_free(self.ui_port)
        self._prepare_home()
        code_port = free_port()
        code = self._spawn("code-location", "api", "grpc", *_code_arguments(self, code_port))
        code.wait_until(lambda: _serves(code_port), timeout_s=_READY_S)
        workspace = str(self._write_workspace(code_port))
        if daemon:
            self._spawn("daemon", "run", "-w", workspace, program="dagster-daemon")
        # The webserver has no login: it listens on this machine only, and keeps few connections to PostgreSQL.
        web = ("-h", "127.0.0.1", "-p", str(self.ui_port), "-w", workspace, "--db-pool-max-overflow", "5")
        webserver = self._spawn("webserver", *web, program="dagster-webserver")
        webserver.wait_until(self.api.ready, timeout_s=_READY_S)

    def start(self, name: str, command: list[str]) -> ServerProcess:
        """Another server of ours, with the platform's environment."""
        server = ServerProcess(name, command, self.environment(), self.settings.home / "logs")
        self.servers.append(server)
        return server

    def check(self) -> None:
        """Refuse to go on when a server ended by itself; start PostgreSQL again when it died.

        Raises:
            Refused: names the server and shows the end of its log.
        """
        for server in self.servers:
            if not server.alive:
                raise Refused(f"{server.name} ended by itself:\n{server.log_tail()}", hint=f"read {server.log}")
        LocalPostgres(self.settings.home).up()

    def stop(self) -> None:
        """Stop everything that was started, the last first; runs get the time to write what they hold."""
        for server in reversed(self.servers):
            server.terminate()
        for server in reversed(self.servers):
            server.stop()
        self.servers.clear()
        if self._started_postgres:
            LocalPostgres(self.settings.home).down()

    def _spawn(self, name: str, *arguments: str, program: str = "dagster") -> ServerProcess:
        return self.start(name, [str(Path(sys.executable).parent / program), *arguments])

    def environment(self) -> dict[str, str]:
        """The variables of its servers, and of a program that is to find what they find."""
        # Our settings and nothing else of ours: a variable that is set around the demo must not reach into it.
        others = {name: value for name, value in os.environ.items() if not name.startswith("OHLCV_")}
        return {
            **others,
            **self.settings.environment(),
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "OHLCV_DAGSTER_DATABASE_URL": self._dagster_url,
            "OHLCV_DAGSTER_LOGS": str(self.home / "logs"),
        }

    def _prepare_home(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(__file__).with_name("dagster.yaml"), self.home / "dagster.yaml")

    def _write_workspace(self, code_port: int) -> Path:
        path = self.home / "workspace.yaml"
        path.write_text(
            "load_from:\n  - grpc_server:\n      host: 127.0.0.1\n"
            f"      port: {code_port}\n      location_name: {self.settings.location_name}\n"
        )
        return path


def _code_arguments(platform: Platform, code_port: int) -> list[str]:
    name = platform.settings.location_name
    return ["-m", platform.module, "-h", "127.0.0.1", "-p", str(code_port), "--location-name", name]


def _for_dagster(url: str) -> str:
    # From SQLAlchemy 2.1 on a bare postgresql:// means another driver than the one Dagster brings.
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


def _serves(port: int) -> bool:
    """Whether the gRPC server on that port says that it is serving."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        # The stub's methods are made at run time: no type checker sees them.
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service="DagsterApi"), timeout=1)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
