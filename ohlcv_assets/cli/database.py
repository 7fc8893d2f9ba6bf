"""`ohlcv db`: start, stop and look at the local PostgreSQL server, and make the tables.

Lives here: what a person types and reads. Does not: the supervisor (storage/local_postgres.py) or the migrations
(storage/migrate.py). Nothing of the storage is imported before a command runs, so that `ohlcv --help` stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ohlcv_assets.cli.asked import JsonOption, print_json
from ohlcv_assets.settings import settings

if TYPE_CHECKING:
    from ohlcv_assets.storage.local_postgres import LocalPostgres, PostgresStatus

#: What is told of the local server, under these names.
_STATUS = ("running", "version", "port", "pid", "data_directory")

app = typer.Typer(help="The PostgreSQL server of the bars and of Dagster.", no_args_is_help=True)


@app.command()
def start(as_json: JsonOption = False) -> None:
    """Start the local server, or find it running; it stays up until `ohlcv db stop`.

    \b
    Examples:
      ohlcv db start
      ohlcv db start --json | jq .local.port

    Exit code: 0 it answers; 3 it does not start.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    local = _local()
    local.up()
    seen = local.status()
    if as_json:
        print_json({"local": _facts(seen)})
    else:
        typer.echo(_described(seen))


@app.command()
def stop(as_json: JsonOption = False) -> None:
    """Stop the local server: sessions are cut, what was committed stays.

    \b
    Examples:
      ohlcv db stop

    Exit code: 0 it does not run any more; 3 it cannot be stopped.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    was_running = _local().down()
    if as_json:
        print_json({"was_running": was_running})
    else:
        typer.echo("PostgreSQL is stopped" if was_running else "PostgreSQL was not running")


@app.command()
def status(as_json: JsonOption = False) -> None:
    """Say whether the server answers and where its data are.

    \b
    Examples:
      ohlcv db status
      ohlcv db status --json | jq .local.port

    Exit code: 0 the bars' server answers; 3 it does not.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    given = settings().database_url is not None
    version = _given_version() if given else None
    seen = _local().status()
    if as_json:
        told = {"version": version} if given else None
        print_json({"given": told, "local": _facts(seen)})
    else:
        if given:
            typer.echo(f"the bars are where OHLCV_DATABASE_URL says: PostgreSQL {version} answers")
        typer.echo(_described(seen))
    raise typer.Exit(0 if given or seen.running else 3)


@app.command()
def migrate(as_json: JsonOption = False) -> None:
    """Make the tables of the bars, or bring them up to date; the local server is started for it.

    \b
    Examples:
      ohlcv db migrate

    Exit code: 0 the tables are up to date; 3 the database does not answer, or refuses.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.cli.stores import first_contact_s
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.local_postgres import bars_url

    configured = settings()
    with Database(bars_url(configured), first_contact_s=first_contact_s(configured)) as database:
        applied = database.migrate()
    if as_json:
        print_json({"applied": applied})
    else:
        typer.echo(f"applied: {', '.join(applied)}" if applied else "the tables are up to date")


def _local() -> LocalPostgres:
    from ohlcv_assets.storage.local_postgres import LocalPostgres

    return LocalPostgres(settings().home)


def _given_version() -> str:
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.local_postgres import bars_url

    with Database(bars_url(settings())) as database:
        return database.server_version()


def _facts(seen: PostgresStatus) -> dict[str, object]:
    return {name: getattr(seen, name) for name in _STATUS}


def _described(seen: PostgresStatus) -> str:
    state = "does not run"
    if seen.running:
        state = f"{seen.version} answers on 127.0.0.1:{seen.port} (process {seen.pid})"
    return f"the local PostgreSQL {state}\nits data are in {seen.data_directory}"
