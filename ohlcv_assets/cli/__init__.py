"""The program `ohlcv`: one command a file, each importing what it needs only when it is called.

Lives here: the list of commands and how an error is told: one form, on stderr, with the error's own exit code. Does not:
any command's body.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import typer

from ohlcv_assets.cli import panels
from ohlcv_assets.cli.alert import alert
from ohlcv_assets.cli.backfill_db import backfill_db
from ohlcv_assets.cli.command import Command
from ohlcv_assets.cli.coverage import coverage
from ohlcv_assets.cli.database import app as database
from ohlcv_assets.cli.doctor import doctor
from ohlcv_assets.cli.download_bulk import download_bulk
from ohlcv_assets.cli.ledger import ledger
from ohlcv_assets.cli.output import told_output
from ohlcv_assets.cli.platform import demo, ui, up
from ohlcv_assets.cli.qa import app as qa
from ohlcv_assets.cli.read import read
from ohlcv_assets.cli.repair import repair
from ohlcv_assets.cli.replay import replay
from ohlcv_assets.cli.stream import stream
from ohlcv_assets.cli.universe import app as universe
from ohlcv_assets.cli.verify import verify
from ohlcv_assets.errors import OhlcvError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Every command and group of commands, by what it is for, in the order of `ohlcv --help`.
_PROGRAM: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    panels.PLATFORM: {"demo": demo, "up": up, "ui": ui, "replay": replay},
    panels.CAPTURE: {"stream": stream, "download-bulk": download_bulk, "backfill-db": backfill_db},
    panels.QUALITY: {"qa": qa, "repair": repair, "ledger": ledger, "verify": verify},
    panels.READ: {"read": read, "coverage": coverage},
    panels.SET_UP: {"doctor": doctor, "db": database, "universe": universe, "alert": alert},
}

# --start_timestamp is --start-timestamp, and download_bulk is download-bulk: both are typed. Groups hand it on to theirs.
_EITHER_SPELLING = {"token_normalize_func": lambda token: token.replace("_", "-")}


class _Program(panels.PanelledGroup):
    """The commands in that order; typer's own puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for commands in _PROGRAM.values() for name in commands]


app = typer.Typer(
    name="ohlcv",
    help="One-minute OHLCV bars of Binance, captured twice and compared bar for bar.",
    no_args_is_help=True,
    cls=_Program,
    rich_markup_mode=panels.markup(),
    context_settings=_EITHER_SPELLING,
    pretty_exceptions_enable=False,
)


@app.callback()
def _program(
    context: typer.Context,
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Show what happens inside, on standard error."),
) -> None:
    """One-minute OHLCV bars of Binance, captured twice and compared bar for bar."""
    from ohlcv_assets.cli.waiting import tell_waits
    from ohlcv_assets.logs import show_from

    show_from(logging.INFO if verbose else logging.WARNING)
    # A stream runs for hours, and what it waited for is read in its log.
    tell_waits(logged=verbose or context.invoked_subcommand == "stream")


for _panel, _commands in _PROGRAM.items():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name, rich_help_panel=_panel, cls=panels.PanelledGroup)
            for _below in _command.registered_commands:
                _below.cls = Command
        else:
            app.command(_name, cls=Command, rich_help_panel=_panel, context_settings=_EITHER_SPELLING)(_command)


def main() -> None:
    """Run the program; an error of ours becomes a message on stderr and its exit code."""
    with told_output():
        try:
            _run()
        except OhlcvError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from error
        except ConnectionError as error:
            # Of a socket: what is printed does not end so (cli/output.py).
            print(f"error: a connection was lost: {error}\n  try: the same command again", file=sys.stderr)
            raise SystemExit(OhlcvError.exit_code) from error
        except OSError as error:
            # A folder that may not be written, a disk that is full: the machine said no.
            print(f"error: {error}\n  try: set OHLCV_HOME to a folder that you can write, with room", file=sys.stderr)
            raise SystemExit(OhlcvError.exit_code) from error


def _run() -> None:
    """The program; whatever it has printed is out."""
    try:
        app()
    except SystemExit as ended:
        # typer takes every broken pipe for one of standard output, and makes its own exit of it.
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        sys.stdout.flush()
        raise
