"""`make bench-repair`: from a red check to a green one, unattended, at 1x: seconds of each stage.

Lives here: one bar of a running hour is changed behind the platform's back, again and again, and Dagster's own records say when
the check was red, when the repair was asked for, and when the check was green. Does not: any step of the loop: the daemon
drives `keep_streaming`, `keep_comparing` and `keep_repairing` with their default settings, as `ohlcv up` does.

The first time the window's own ten-minute comparison finds the bar. Later rounds ask for a comparison, for the next window
is ten minutes away. Exit code 1 when a round does not become green in time.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common import ReplayServer, machine, universe_of
from ohlcv_assets.errors import Refused
from ohlcv_assets.instruments import Market, release_universe
from ohlcv_assets.platform.processes import free_port
from ohlcv_assets.platform.servers import Platform
from ohlcv_assets.replay.truth import generate_truth
from ohlcv_assets.settings import Settings, read_settings
from ohlcv_assets.storage.local_postgres import LocalPostgres, bars_url
from ohlcv_assets.timestamps import HOUR_MS, MINUTE_MS, day_start_ms

T = TypeVar("T")

DAY = date(2025, 6, 2)
UNIVERSE = "v0.1"
SEED = 7
MARKET = Market.FUTURES
_HOUR_MS = day_start_ms(DAY) + 12 * HOUR_MS
_PARTITION = f"{DAY.isoformat()}-12:00"
#: The hour's first window is due five minutes later: until then Dagster starts, streams, and the bar is changed.
_START_MS = _HOUR_MS + 10 * MINUTE_MS
_CHECK = "streamed_equals_fetched"
_PATIENCE_S = 420.0
_POLL_S = 0.5
#: Aim for the time from red to green.
AIM_S = 60.0

_EVALUATIONS = """
query Evaluations($key: AssetKeyInput!, $check: String!) {
  assetCheckExecutions(assetKey: $key, checkName: $check, limit: 50) { runId evaluation { success timestamp } } }
"""
_REPAIR_RUN = """
query Run($id: ID!) { runOrError(runId: $id) { ... on Run { creationTime startTime endTime jobName } } }
"""
_MADE = """
query Made($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetMaterializations(limit: 50) { runId timestamp } } } }
"""


@dataclass(frozen=True)
class Round:
    """One bar from red to green: UNIX seconds of each moment, by Dagster's records."""

    red: float
    asked: float
    started: float
    repaired: float
    green: float

    def stages(self) -> dict[str, float]:
        """Seconds of each stage, in order, and of all."""
        return {
            "red, to the repair run asked for": self.asked - self.red,
            "to its code loaded": self.started - self.asked,
            "to the bar repaired": self.repaired - self.started,
            "to the check green": self.green - self.repaired,
            "red to green": self.green - self.red,
        }


class Bench:
    """The platform with one hour under way."""

    def __init__(self, console: Console, home: Path, symbols: int) -> None:
        self.console = console
        self.symbols = symbols
        self.exchange = ReplayServer.at_port(free_port())
        self.settings = Settings(
            home=home,
            database_url=None,
            lake=None,
            universes=home / "universes",
            universe=UNIVERSE,
            exchange_url=self.exchange.url,
            streamed_since=DAY.isoformat(),
            daily_since=DAY.isoformat(),
            partitions_until=(DAY + timedelta(days=1)).isoformat(),
            autostart=True,
        )

    def run(self, rounds: int) -> list[Round]:
        """So many rounds, one after the other."""
        LocalPostgres(self.settings.home).down()
        shutil.rmtree(self.settings.home, ignore_errors=True)
        self.settings.home.mkdir(parents=True)
        truth = generate_truth(symbols=self.symbols, days=2, seed=SEED, first_day=DAY - timedelta(days=1))
        release_universe(universe_of(truth, UNIVERSE), self.settings.universes)
        with Platform(self.settings) as self.platform:
            self._start()
            return [self._round(number) for number in range(rounds)]

    def _start(self) -> None:
        self.platform.start_postgres()
        command = self.exchange.command(
            symbols=self.symbols, first_day=DAY - timedelta(days=1), days=2, seed=SEED, start_ms=_START_MS, speed=1
        )
        replay = self.platform.start("replay-exchange", command)
        replay.wait_until(self.exchange.answers, timeout_s=120)
        self.platform.start_dagster()

    def _round(self, number: int) -> Round:
        known = {evaluation["runId"] for evaluation in self._evaluations()}
        changed = self._until("a streamed bar", lambda: self._corrupt(number))
        self.console.print(f"round {number + 1}: {changed} changed in PostgreSQL", highlight=False)
        if number:
            self.platform.api.launch(f"{MARKET}_recent", partition=_PARTITION)
        red = self._until("red", lambda: self._first(known, success=False))
        green = self._until("green", lambda: self._first(known, success=True))
        run = self.platform.api.ask(_REPAIR_RUN, id=green["runId"])["runOrError"]
        if not run["jobName"].endswith("_recent_repair"):
            raise Refused(f"the check was green by {run['jobName']}, not by a repair")
        made = self.platform.api.ask(_MADE, key=self._key("recent_repair"))["assetNodeOrError"]
        (repaired,) = [each for each in made["assetMaterializations"] if each["runId"] == green["runId"]]
        return Round(
            red["evaluation"]["timestamp"],
            run["creationTime"],
            run["startTime"],
            float(repaired["timestamp"]) / 1000,
            green["evaluation"]["timestamp"],
        )

    def _first(self, known: set[str], *, success: bool) -> dict[str, Any] | None:
        """The oldest evaluation of a run that is not known, with this outcome."""
        found = [each for each in self._evaluations() if each["runId"] not in known and each["evaluation"]]
        return next((each for each in reversed(found) if each["evaluation"]["success"] is success), None)

    def _evaluations(self) -> list[dict[str, Any]]:
        answer = self.platform.api.ask(_EVALUATIONS, key=self._key("recent_qa"), check=_CHECK)
        found: list[dict[str, Any]] = answer["assetCheckExecutions"]
        return found

    def _key(self, asset: str) -> dict[str, Any]:
        return {"path": [self.settings.region, MARKET.value, asset]}

    def _corrupt(self, number: int) -> str | None:
        """Double the volume of a traded bar of the hour's first window; which one, or None while there is none."""
        with psycopg.connect(bars_url(self.settings)) as connection:
            connection.execute("set session_replication_role = replica")
            row = connection.execute(
                "update bars set volume = volume * 2 where (market, symbol, timestamp) = (select market, symbol, timestamp "
                "from bars where market = %s and timestamp = %s and volume > 0 order by symbol limit 1) returning symbol",
                (MARKET.value, _HOUR_MS + (3 + number) * MINUTE_MS),
            ).fetchone()
        return None if row is None else str(row[0])

    def _until(self, what: str, ask: Callable[[], T | None]) -> T:
        deadline_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline_s:
            self.platform.check()
            if (answer := ask()) is not None:
                return answer
            time.sleep(_POLL_S)
        raise Refused(
            f"waited {_PATIENCE_S:.0f} s for {what} in vain", hint=f"read the logs under {self.settings.home}"
        )


def _table(rounds: list[Round]) -> Table:
    table = Table(title="seconds at 1x", title_justify="left")
    for name in ("stage", "median", *(f"round {number + 1}" for number in range(len(rounds)))):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in rounds[0].stages():
        taken = [each.stages()[stage] for each in rounds]
        table.add_row(stage, *(f"{seconds:.1f}" for seconds in (statistics.median(taken), *taken)))
    return table


def main(
    rounds: int = typer.Option(3, min=1, max=6, help="How many bars are changed, one after the other."),
    symbols: int = typer.Option(20, min=1, help="Symbols a market."),
) -> None:
    """Change a bar, wait for the check to be red and green again, and say how long each stage took."""
    console = Console()
    console.print(f"[bold]repair[/bold]: {symbols} symbols a market, default sensor intervals, 1x", highlight=False)
    measured = Bench(console, read_settings().home / "bench-repair", symbols).run(rounds)
    console.print(_table(measured))
    for line in machine():
        console.print(line, highlight=False)
    worst = max(each.stages()["red to green"] for each in measured)
    console.print(f"worst {worst:.1f} s, aim {AIM_S:.0f} s", highlight=False)
    sys.exit(0 if worst <= AIM_S else 1)


if __name__ == "__main__":
    typer.run(main)
