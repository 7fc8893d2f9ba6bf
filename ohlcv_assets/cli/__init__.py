"""The program `ohlcv`: one command a file, each importing what it needs only when it is called.

Lives here: the list of commands and how an error is told: one form, on stderr, with the error's own exit code. Does not:
any command's body.
"""

from __future__ import annotations

import logging
import sys

import typer

from ohlcv_assets.cli.alert import alert
from ohlcv_assets.cli.backfill_db import backfill_db
from ohlcv_assets.cli.database import app as database
from ohlcv_assets.cli.doctor import doctor
from ohlcv_assets.cli.download_bulk import download_bulk
from ohlcv_assets.cli.platform import demo, ui, up
from ohlcv_assets.cli.repair import repair
from ohlcv_assets.cli.replay import replay
from ohlcv_assets.cli.stream import stream
from ohlcv_assets.cli.universe import app as universe
from ohlcv_assets.cli.verify import verify
from ohlcv_assets.errors import OhlcvError

app = typer.Typer(
    name="ohlcv",
    help="One-minute OHLCV bars of Binance, captured twice and compared bar for bar.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _program(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Show what happens inside, on standard error."),
) -> None:
    """One-minute OHLCV bars of Binance, captured twice and compared bar for bar."""
    from ohlcv_assets.logs import show_from

    show_from(logging.INFO if verbose else logging.WARNING)


for command in (demo, up, ui, replay, stream, repair, verify, alert, doctor):
    app.command()(command)
# --start_timestamp is --start-timestamp: both are typed.
either_spelling = app.command(context_settings={"token_normalize_func": lambda token: token.replace("_", "-")})
either_spelling(download_bulk)
either_spelling(backfill_db)
app.add_typer(database, name="db")
app.add_typer(universe, name="universe")


def main() -> None:
    """Run the program; an error of ours becomes a message on stderr and its exit code."""
    try:
        app()
    except OhlcvError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except OSError as error:
        # A folder that may not be written, a disk that is full: the machine said no.
        print(f"error: {error}\n  try: set OHLCV_HOME to a folder that you can write, with room", file=sys.stderr)
        raise SystemExit(OhlcvError.exit_code) from error
