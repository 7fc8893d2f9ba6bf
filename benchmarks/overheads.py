"""What Dagster and Python cost around our work: imports, the start of a run, a day of a backfill.

Lives here: fresh processes that import, and runs that are launched at a real webserver and daemon, over a real replay exchange, a
real PostgreSQL and a lake; one table each. Does not: the work itself (download.py, qa_day.py).

A run is timed by Dagster's own records. *To our first line* is from the launch, by our clock, to the start of the first step: the
webserver's and the launcher's work, a new process, and the loading of the code location in it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from benchmarks.common import ReplayServer, markdown_table, require, universe_of
from ohlcv_assets.instruments import Market, release_universe
from ohlcv_assets.platform.processes import free_port
from ohlcv_assets.platform.servers import Platform
from ohlcv_assets.replay.truth import generate_truth
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import HOUR_MS, day_start_ms

TITLE = "Starting: imports, runs, backfills"
_DAY, _SEED, _MARKET = date(2025, 6, 2), 7, Market.FUTURES
_PATIENCE_S = 300.0
#: What Dagster is asked of a run: when it was created and ran, and each of its steps.
RUN_QUERY = """
query Run($id: ID!) { runOrError(runId: $id) { ... on Run {
  status creationTime startTime endTime stepStats { stepKey startTime endTime } } } }
"""
#: Name, what a fresh Python does, and the aim in seconds, where there is one.
_STARTS: tuple[tuple[str, Sequence[str], float | None], ...] = (
    ("`python -c pass`", ("-c", "pass"), None),
    ("`import ohlcv_assets.client`", ("-c", "import ohlcv_assets.client"), 1.5),
    ("`ohlcv --help`", ("-m", "ohlcv_assets.cli", "--help"), None),
    ("`import ohlcv_assets.definitions`: the code location", ("-c", "import ohlcv_assets.definitions"), None),
)


@dataclass(frozen=True)
class Scale:
    """How often and how much."""

    times: int = 5
    symbols: int = 4
    runs: int = 3
    range_days: int = 5


def run(scale: Scale | None = None) -> Iterator[str]:
    """The section: lines of Markdown, as they are ready."""
    scale = scale or Scale()
    yield from markdown_table(("a fresh process", "s, median", "aim, s"), _starts(scale.times))
    if scale.runs:
        yield ""
        yield from _runs(scale)


def _starts(times: int) -> Iterator[tuple[object, ...]]:
    with tempfile.TemporaryDirectory(prefix="ohlcv-bench-") as home:
        for name, arguments, aim_s in _STARTS:
            if times > 1:  # the first one reads the files from disk: it is not counted
                _start(arguments, home)
            taken_s = statistics.median([_start(arguments, home) for _ in range(times)])
            yield name, f"{taken_s:.2f}", "" if aim_s is None else f"{aim_s:g}"


def _start(arguments: Sequence[str], home: str) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OHLCV_", "DAGSTER_"))}
    began_s = time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, env={**environment, "OHLCV_HOME": home}, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began_s


@dataclass(frozen=True)
class Taken:
    """Seconds of a run: from its launch to its first step, to the end, and the steps alone."""

    to_code_s: float
    all_s: float
    steps_s: float

    @property
    def cells(self) -> tuple[str, ...]:
        """For a row of the table."""
        return f"{self.to_code_s:.1f}", f"{self.steps_s:.1f}", f"{self.all_s - self.to_code_s - self.steps_s:.1f}", f"{self.all_s:.1f}"  # fmt: skip


def _runs(scale: Scale) -> Iterator[str]:
    days = scale.runs + 1 + scale.range_days
    exchange = ReplayServer.at_port(free_port())
    # Not /tmp: PostgreSQL, when root starts it, runs as another user who must be able to enter.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ohlcv-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        settings = Settings(
            home=home,
            database_url=None,
            lake=None,
            universes=home / "universes",
            universe="v0.1",
            exchange_url=exchange.url,
            streamed_since=_DAY.isoformat(),
            daily_since=_DAY.isoformat(),
            partitions_until=(_DAY + timedelta(days=days)).isoformat(),
        )
        truth = generate_truth(symbols=scale.symbols, days=days + 1, seed=_SEED, first_day=_DAY)
        release_universe(universe_of(truth, settings.universe), settings.universes)
        with Platform(settings) as platform:
            platform.start_postgres()
            start_ms = day_start_ms(_DAY + timedelta(days=days)) + HOUR_MS
            command = exchange.command(
                symbols=scale.symbols, first_day=_DAY, days=days + 1, seed=_SEED, start_ms=start_ms, speed=1
            )
            platform.start("replay-exchange", command).wait_until(exchange.answers, timeout_s=120)
            platform.start_dagster()
            yield from _table(platform, scale)


def _table(platform: Platform, scale: Scale) -> Iterator[str]:
    named = [(_DAY + timedelta(days=number)).isoformat() for number in range(scale.runs + 1 + scale.range_days)]
    # The first run of an instance makes what later ones find: it is not counted.
    _launched(platform, partition=named[0])
    single = [_launched(platform, partition=day) for day in named[1 : scale.runs + 1]]
    median = Taken(*(statistics.median(values) for values in zip(*((t.to_code_s, t.all_s, t.steps_s) for t in single), strict=True)))  # fmt: skip
    rows = [(f"a day of {scale.symbols} symbols, median of {scale.runs} runs", *median.cells, f"{median.all_s:.1f}")]
    if scale.range_days:
        whole = _launched(platform, partitions=(named[scale.runs + 1], named[-1]))
        rows.append((f"{scale.range_days} days as one run", *whole.cells, f"{whole.all_s / scale.range_days:.1f}"))
    head = ("`futures_day`: download, QA, ledger", "to our first line, s", "our steps, s", "around them, s", "all, s", "s a day")  # fmt: skip
    yield from markdown_table(head, rows)


def _launched(
    platform: Platform, *, partition: str | None = None, partitions: tuple[str, str] | None = None
) -> Taken:
    began_s = time.time()
    run_id = platform.api.launch(f"{_MARKET}_day", partition=partition, partitions=partitions)
    platform.api.wait([run_id], timeout_s=_PATIENCE_S, on_poll=platform.check)
    found = platform.api.ask(RUN_QUERY, id=run_id)["runOrError"]
    steps = [step for step in found["stepStats"] if step["startTime"] and step["endTime"]]
    # The database holds nothing of these days: the QA says so and fails its check; the run itself ends well or by that check.
    require(bool(steps), f"a run of {partition or partitions}: {found['status']}")
    first_s, last_s = min(step["startTime"] for step in steps), max(step["endTime"] for step in steps)
    return Taken(first_s - began_s, found["endTime"] - began_s, last_s - first_s)
