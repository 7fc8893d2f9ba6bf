"""`ohlcv doctor`: is everything there that this deployment needs, and what to do where it is not?

Lives here: how findings are shown, and the exit code. Does not: the examinations (platform/doctor.py).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ohlcv_assets.settings import settings

if TYPE_CHECKING:
    from ohlcv_assets.platform.doctor import Finding

#: The word before each line, as wide as the longest, and its colour.
_MARKS = {"ok": "[green]ok  [/]", "warn": "[yellow]look[/]", "bad": "[red]bad [/]", "away": "[red]away[/]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a finding.")] = False,
) -> None:
    """Look at versions, disk, universe, the exchange's clock, database, lake and the last bar of every symbol.

    Nothing is started or changed.

    \b
    Examples:
      ohlcv doctor
      ohlcv doctor --json | jq 'select(.health != "ok")'

    Exit code: 0 everything is well, or only worth a look; 1 something is bad; 3 exchange, database or lake do not answer.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.platform.doctor import Health, examine

    found = []
    for finding in examine(settings()):
        found.append(finding.health)
        _show(finding, as_json=as_json)
    if Health.BAD in found:
        raise typer.Exit(1)
    if Health.AWAY in found:
        raise typer.Exit(3)


def _show(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(finding.facts(), default=str))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{_MARKS[finding.health]}  {finding.name:<18} {escape(finding.sentence)}")
    if finding.advice:
        console.print(f"{'':<25} try: {escape(finding.advice)}")
