"""The databases of the local server: the bars', Dagster's own, and the commands that a person types."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.local_postgres import LocalPostgres, bars_url, dagster_url
from ohlcv_assets_tests.fixtures.postgres import open_temporary_folder

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """A deployment with a server of this module."""
    with open_temporary_folder() as folder:
        yield Settings(home=folder, region="tokyo", database_url=None)
        LocalPostgres(folder).down()


def test_bars_have_a_database_of_their_region(settings: Settings) -> None:
    """Without OHLCV_DATABASE_URL the server is started and the region's database made, once."""
    assert bars_url(settings) == bars_url(settings)
    assert urlsplit(bars_url(settings)).path == "/ohlcv_tokyo"
    with psycopg.connect(bars_url(settings)) as connection:
        assert connection.execute("select current_database()").fetchone() == ("ohlcv_tokyo",)


def test_given_address_replaces_the_local_server(tmp_path: Path) -> None:
    """With OHLCV_DATABASE_URL no local server is made for the bars."""
    given = Settings(home=tmp_path, database_url="postgresql://user:secret@host/bars")
    assert bars_url(given) == "postgresql://user:secret@host/bars"
    assert list(tmp_path.iterdir()) == []


def test_dagster_has_a_role_that_reaches_nothing_else(settings: Settings) -> None:
    """Dagster's role owns its database, has a limit of connections, and cannot enter that of the bars."""
    url = dagster_url(settings)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table runs ()")
        connection.execute("drop table runs")
        facts = connection.execute(
            "select rolname, rolsuper, rolcreatedb, rolcreaterole, rolconnlimit from pg_roles where rolname = current_user"
        )
        assert facts.fetchone() == ("dagster", False, False, False, 100)
    bars = urlsplit(bars_url(settings)).path
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(url.replace("/dagster_tokyo", bars))


def test_first_calls_at_once_agree(settings: Settings) -> None:
    """Threads that ask for both databases of a new region at the same moment all get ones that work."""
    new = settings.model_copy(update={"region": "stockholm"})
    with ThreadPoolExecutor(8) as threads:
        urls = list(threads.map(lambda ask: ask(new), [bars_url, dagster_url] * 4))
    assert len(set(urls)) == 2
    for url in set(urls):
        psycopg.connect(url).close()


def test_lost_password_of_dagster_is_replaced(settings: Settings) -> None:
    """When the password's file is gone, the role gets a new one instead of being locked out."""
    before = dagster_url(settings)
    (settings.home / "postgres" / "dagster_password").unlink()
    assert dagster_url(settings) != before
    psycopg.connect(dagster_url(settings)).close()


def test_commands_start_describe_and_stop_the_server(settings: Settings) -> None:
    """`ohlcv db` starts, migrates, describes and stops the server, and its exit codes say whether it runs."""

    def ohlcv(*arguments: str, **more: str) -> tuple[int, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OHLCV_")}
        environment |= {"PYTHONPATH": str(CHECKOUT), "OHLCV_HOME": str(settings.home), "OHLCV_REGION": "tokyo"} | more
        command = [sys.executable, "-c", "from ohlcv_assets.cli import main; main()", "db", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout + done.stderr

    LocalPostgres(settings.home).up()
    code, said = ohlcv("status")
    assert code == 0
    assert f"{settings.home}/postgres/cluster/data" in said or "/var/lib/ohlcv_assets/" in said
    assert "PostgreSQL is stopped" in ohlcv("stop")[1]
    assert "PostgreSQL was not running" in ohlcv("stop")[1]
    assert LocalPostgres(settings.home).status().running is False
    assert ohlcv("status")[0] == 3
    assert ohlcv("start")[0] == 0
    assert LocalPostgres(settings.home).status().running is True
    assert "applied: 0001_bars" in ohlcv("migrate")[1]
    assert "up to date" in ohlcv("migrate")[1]
    code, said = ohlcv("status", OHLCV_DATABASE_URL="postgresql://user:secret@127.0.0.1:1/bars")
    assert code == 3
    assert "secret" not in said
