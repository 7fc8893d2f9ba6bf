"""`make bench-backfill`: a range of days backfilled through Dagster, one day a run, a week, a month, or all in one.

Lives here: the policies measured over the real servers (PostgreSQL, code location, daemon, webserver, a replay exchange), what a
killed run costs, and two backfills at once beside the QA's windows; Markdown tables. Does not: a year in the UI
(backfill_year.py). The exchange's own counter judges: exit code 1 when it was above its limit, or refused anything.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import typer

from benchmarks.backfill_location import POLICIES, asset_name
from benchmarks.common import ReplayServer, machine, universe_of
from ohlcv_assets.errors import Refused
from ohlcv_assets.instruments import Market, release_universe
from ohlcv_assets.platform.dagster_backfills import Backfills
from ohlcv_assets.platform.processes import free_port
from ohlcv_assets.platform.servers import Platform
from ohlcv_assets.replay.truth import generate_truth
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.local_postgres import LocalPostgres
from ohlcv_assets.timestamps import day_start_ms

_FIRST_DAY, _SEED, _UNIVERSE = date(2025, 6, 1), 7, "v0.1"
_MOST_S = 3600.0
_STILL_LOOKS = 5


@dataclass(frozen=True)
class Stage:
    """The running platform with its exchange, and the days that there are."""

    platform: Platform
    exchange: ReplayServer
    days: int
    policies: tuple[str, ...]

    @property
    def backfills(self) -> Backfills:
        """What is asked about backfills."""
        return Backfills(self.platform.api)

    def keys(self, days: int | None = None) -> list[str]:
        """The first so many days, as partition keys."""
        return [(_FIRST_DAY + timedelta(days=number)).isoformat() for number in range(days or self.days)]

    def asset(self, market: Market, name: str) -> list[str]:
        """The path of an asset."""
        return [self.platform.settings.region, market.value, name]

    def empty_lake(self) -> None:
        """Forget what was downloaded: each measurement downloads and writes."""
        shutil.rmtree(self.platform.settings.home / "lake", ignore_errors=True)

    def worker_cpu_s(self) -> float:
        """Processor time of the runs that have ended: children of the code location, which started them.

        It counts a child when that has ended, which is some seconds after its run: the number has to stand still first.
        """
        last, still = -1.0, 0
        while still < _STILL_LOOKS:
            time.sleep(1)
            now = self._children_cpu_s()
            last, still = now, still + 1 if now == last else 0
        return last

    def _children_cpu_s(self) -> float:
        pid = next(server.pid for server in self.platform.servers if server.name == "code-location")
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def stage(
    days: int, symbols: int, policies: tuple[str, ...] = (), *, module: str = "benchmarks.backfill_location"
) -> Iterator[Stage]:
    """The platform over `days` finished days of both markets, at 1x, for the time of a with block."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ohlcv-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        exchange, end = ReplayServer.at_port(free_port()), _FIRST_DAY + timedelta(days=days)
        # The names do not depend on the number of days.
        truth = generate_truth(symbols=symbols, days=1, seed=_SEED, first_day=_FIRST_DAY)
        release_universe(universe_of(truth, _UNIVERSE), home / "universes")
        command = exchange.command(
            symbols=symbols, first_day=_FIRST_DAY, days=days + 1, seed=_SEED, start_ms=day_start_ms(end) + 1_800_000, speed=1
        )  # fmt: skip
        try:
            with Platform(_settings(home, exchange.url, end), module=module) as platform:
                platform.start_postgres()
                platform.start("replay-exchange", command).wait_until(exchange.answers, timeout_s=300)
                platform.start_dagster()
                yield Stage(platform, exchange, days, policies)
        finally:
            LocalPostgres(home).down()


def _settings(home: Path, url: str, end: date) -> Settings:
    return Settings(
        home=home,
        database_url=None,
        lake=None,
        universes=home / "universes",
        universe=_UNIVERSE,
        exchange_url=url,
        streamed_since=(end - timedelta(days=1)).isoformat(),
        daily_since=_FIRST_DAY.isoformat(),
        partitions_until=(end + timedelta(days=1)).isoformat(),
    )


def main(
    days: int = 31,
    symbols: int = 20,
    only: str = "speed,limit,kill,shared",
    policies: str = ",".join(POLICIES),
) -> None:
    """Measure, print the tables, and let the exchange's counter judge."""
    with stage(days, symbols, tuple(policies.split(","))) as scene:
        parts: dict[str, Callable[[Stage], None]] = {
            "speed": _speed,
            "limit": _limit,
            "kill": _kill,
            "shared": _shared,
        }
        for name in only.split(","):
            parts[name](scene)
        counted = scene.exchange.stats()
    typer.echo(f"\n{days} days, {symbols} symbols a market; {', '.join(machine())}")
    most, limits = counted["max_used_weight"], counted["weight_limit"]
    typer.echo(f"most weight in a minute {most} of {limits}; refused: {counted['refused']}")
    sys.exit(any(most[m] > limits[m] for m in limits) or any(counted["refused"].values()))


def _speed(scene: Stage) -> None:
    """Each policy while the exchange's limit is far away: what is left is Dagster's own time."""
    _table(scene, 600.0, "the exchange at 600x: its limit is far away")


def _limit(scene: Stage) -> None:
    """Each policy at the exchange's own speed: the weight a minute is what takes the time."""
    _table(scene, 1.0, "the exchange at 1x: its limit decides")


def _table(scene: Stage, speed: float, title: str) -> None:
    scene.exchange.set_speed(speed)
    typer.echo(f"\n{title}\n\n| days a run | runs | most at once | seconds | runs only, seconds | seconds a day | "
               "CPU seconds of runs | weight | most in a minute |\n|---|" + "---:|" * 8)  # fmt: skip
    for policy in scene.policies:
        scene.empty_lake()
        typer.echo(f"| {POLICIES[policy] or 'all'} | " + " | ".join(_measured(scene, policy)) + " |")


def _measured(scene: Stage, policy: str) -> list[str]:
    before, cpu_s = scene.exchange.stats()["used_weight"]["futures"], scene.worker_cpu_s()
    began_s = time.monotonic()
    backfill = scene.backfills.launch([scene.asset(Market.FUTURES, asset_name(policy))], scene.keys())
    (progress,) = scene.backfills.wait(backfill, timeout_s=_MOST_S)
    taken_s = time.monotonic() - began_s
    if progress.materialized != scene.days:
        raise Refused(f"the backfill ended as {progress}", hint="see the logs of its runs")
    runs = scene.backfills.runs(backfill)
    spent, used_s = _since(before, scene.exchange.stats()["used_weight"]["futures"]), scene.worker_cpu_s() - cpu_s
    working_s = max(run["endTime"] for run in runs) - min(run["startTime"] for run in runs)
    numbers = [f"{len(runs)}", f"{_most_at_once(runs)}", f"{taken_s:.0f}", f"{working_s:.0f}"]
    numbers += [f"{taken_s / scene.days:.2f}", f"{used_s:.0f}"]
    return [*numbers, f"{sum(spent.values()):,}", f"{max(spent.values(), default=0):,}"]


def _since(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {minute: used - before.get(minute, 0) for minute, used in after.items() if used > before.get(minute, 0)}


def _most_at_once(runs: list[dict[str, Any]]) -> int:
    moments = sorted([(run["startTime"], 1) for run in runs] + [(run["endTime"], -1) for run in runs])
    running = most = 0
    for _, step in moments:
        running += step
        most = max(most, running)
    return most


def _kill(scene: Stage) -> None:
    """One run killed with -9 when a third of the range was fetched: what has to be fetched again."""
    scene.exchange.set_speed(1.0)
    columns = (
        "in the lake before",
        "failed",
        "of them in the lake already",
        "pages of the retry",
        "seconds of the retry",
    )
    typer.echo("\na run killed with -9 in the middle, the exchange at 1x\n")
    typer.echo(f"| days a run | {' | '.join(columns)} |\n|---|" + "---:|" * len(columns))
    for policy in scene.policies:
        scene.empty_lake()
        typer.echo(f"| {POLICIES[policy] or 'all'} | " + " | ".join(_killed(scene, policy)) + " |")


def _killed(scene: Stage, policy: str) -> list[str]:
    asset, lake = scene.asset(Market.FUTURES, asset_name(policy)), scene.platform.settings.home / "lake"
    backfill = scene.backfills.launch([asset], scene.keys())
    deadline_s = time.monotonic() + _MOST_S
    while len(list(lake.rglob("futures/**/bars.parquet"))) < scene.days / 3 and time.monotonic() < deadline_s:
        time.sleep(0.1)
    done = len(list(lake.rglob("futures/**/bars.parquet")))
    os.kill(scene.backfills.worker(backfill), signal.SIGKILL)
    (progress,) = scene.backfills.wait(backfill, timeout_s=_MOST_S)
    twice = sum(
        f"date={key}" in str(list(lake.rglob("bars.parquet"))) for key in scene.backfills.partitions(asset, "FAILED")
    )
    asked, began_s = scene.exchange.stats()["requests"]["futures"], time.monotonic()
    again = scene.backfills.retry_failed(backfill)
    (retried,) = scene.backfills.wait(again, timeout_s=_MOST_S)
    if retried.failed or retried.targeted != progress.failed:
        raise Refused(f"the retry ended as {retried} after {progress}", hint="see the logs of its runs")
    pages = scene.exchange.stats()["requests"]["futures"] - asked
    return [f"{done}", f"{progress.failed}", f"{twice}", f"{pages}", f"{time.monotonic() - began_s:.0f}"]


def _shared(scene: Stage) -> None:
    """A backfill of each market, and the QA's windows of the hour beside them, at 1x."""
    scene.exchange.set_speed(1.0)
    scene.empty_lake()
    before = scene.exchange.stats()["used_weight"]
    hour = f"{_FIRST_DAY + timedelta(days=scene.days - 1)}-23:00"
    began_s = time.monotonic()
    backfills = [scene.backfills.launch([scene.asset(market, asset_name("week"))], scene.keys()) for market in Market]
    recent: list[str] = []

    def ask_for_a_window() -> None:
        """Start the next two runs when the last two have ended, as the sensor does."""
        if all(scene.platform.api.has_ended(run_id) for run_id in recent[-len(Market) :]):
            # Whether the hour was streamed does not matter here: its windows are fetched again, and cost weight.
            for folder in (scene.platform.settings.home / "lake").rglob("recent*"):
                shutil.rmtree(folder, ignore_errors=True)
            recent.extend(scene.platform.api.launch(f"{market}_recent", partition=hour) for market in Market)

    found = scene.backfills.wait(*backfills, timeout_s=_MOST_S, on_poll=ask_for_a_window)
    taken_s = time.monotonic() - began_s
    with suppress(Refused):
        scene.platform.api.wait(recent, timeout_s=120)
    after = scene.exchange.stats()
    typer.echo("\na backfill a market and the QA's windows at once, the exchange at 1x, a week a run\n")
    typer.echo("| market | days | weight | most in a minute | limit |\n|---|" + "---:|" * 4)
    for market, progress in zip(Market, found, strict=True):
        spent = _since(before[market.value], after["used_weight"][market.value])
        numbers = (
            progress.materialized,
            sum(spent.values()),
            max(spent.values(), default=0),
            after["weight_limit"][market.value],
        )
        typer.echo(f"| {market} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    typer.echo(f"\n{taken_s:.0f} s, {len(recent)} QA runs meanwhile; refused: {after['refused']}")


if __name__ == "__main__":
    typer.run(main)
