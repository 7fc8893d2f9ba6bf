"""`make soak`: six replayed hours at 60x through the whole platform, while things are broken on purpose.

Lives here: the plan of what is broken when, and the table in the end. Does not: any capture: Dagster's daemon drives
`keep_streaming` and `keep_comparing` as `ohlcv up` does, against a replay exchange with a script of faults. Six minutes and a
half of our own time; exit code 1 when a bar of the six hours is lost, there twice, or not the exchange's bit for bit.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

import requests
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common import ReplayServer, Verdict, judge, machine, market_table, universe_of
from ohlcv_assets.errors import OhlcvError, Refused
from ohlcv_assets.instruments import Market, release_universe
from ohlcv_assets.platform.processes import free_port
from ohlcv_assets.platform.servers import Platform
from ohlcv_assets.replay.truth import Truth, generate_truth
from ohlcv_assets.settings import Settings, read_settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.local_postgres import LocalPostgres
from ohlcv_assets.timestamps import HOUR_MS, MINUTE_MS, Interval, day_start_ms, from_ms, iso

T = TypeVar("T")

DAY = date(2025, 6, 2)
UNIVERSE = "v0.1"
SEED = 7
#: Before the six hours, on a clock that stands at 1x until Dagster is up; then the sensors get some twenty seconds of ours.
_BEFORE_MS = 45 * MINUTE_MS
#: A run needs some ten seconds of our own time to start, a tick may be late by as much: it is asked for so many before its hour.
_LEAD_WALL_S = 35
_SETTLED_WALL_S, _WORKER_WALL_S = 240.0, 45.0
_POLL_S = 0.5
#: Connections that the webserver keeps: each answers with an error once after PostgreSQL was restarted.
_STALE_CONNECTIONS = 10

_RUNS = """
query Runs($job: String!) { runsOrError(filter: {pipelineName: $job}, limit: 200) { ... on Runs { results {
  runId status tags { key value } startTime endTime } } } }
"""
_EVENTS = """
query Events($id: ID!) { logsForRun(runId: $id, limit: 100) { ... on EventConnection { events {
  ... on MessageEvent { message } } } } }
"""
_PID = re.compile(r"\(pid: (\d+)\)")


@dataclass(frozen=True)
class Blow:
    """Something that is done to our own side, so many exchange seconds into the six hours."""

    after_s: int
    name: str
    strike: Callable[[Soak], str]


@dataclass
class Soak:
    """One soak: the platform, the exchange and what was done to them."""

    console: Console
    home: Path
    hours: int = 6
    symbols: int = 24
    speed: float = 60.0
    sensor_interval_s: int = 15
    done: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.exchange = ReplayServer.at_port(free_port())
        start_ms = day_start_ms(DAY)
        self.interval = Interval(start_ms, start_ms + self.hours * HOUR_MS)
        self.settings = Settings(
            home=self.home,
            database_url=None,
            lake=None,
            universes=self.home / "universes",
            universe=UNIVERSE,
            exchange_url=self.exchange.url,
            streamed_since=DAY.isoformat(),
            daily_since=DAY.isoformat(),
            partitions_until=(DAY + timedelta(days=1)).isoformat(),
            # Seconds of a clock that runs sixty times as fast as this machine: one and two of ours.
            download_delay_s=self.speed,
            stream_overlap_s=2 * self.speed,
            stream_lead_s=_LEAD_WALL_S * self.speed,
            sensor_interval_s=self.sensor_interval_s,
            autostart=True,
        )

    def run(self) -> bool:
        """The whole soak; whether every bar is there, once, and right."""
        LocalPostgres(self.home).down()
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        truth = generate_truth(symbols=self.symbols, days=2, seed=SEED, first_day=DAY - timedelta(days=1))
        release_universe(universe_of(truth, UNIVERSE), self.settings.universes)
        started_s = time.monotonic()
        with Platform(self.settings) as self.platform:
            self._start()
            self._say(f"UI: {self.platform.ui_url}, logs: {self.home}")
            self._follow()
            self._wait_for_runs()
            return self._report(truth, time.monotonic() - started_s)

    def _say(self, text: str) -> None:
        self.console.print(f"  [dim]{iso(self._now_ms())}[/dim] {text}", highlight=False, soft_wrap=True)

    def _now_ms(self) -> int:
        return int(self.exchange.stats()["clock_ms"])

    def _start(self) -> None:
        self.platform.start_postgres()
        first_day = DAY - timedelta(days=1)
        command = self.exchange.command(
            symbols=self.symbols, first_day=first_day, days=2, seed=SEED, start_ms=self.interval.start_ms - _BEFORE_MS, speed=1
        )  # fmt: skip
        replay = self.platform.start("replay-exchange", command)
        replay.wait_until(self.exchange.answers, timeout_s=120)
        self.exchange.inject(exchange_faults(self.interval))
        self.platform.start_dagster()
        self.exchange.set_speed(self.speed)

    def _follow(self) -> None:
        """Strike when it is time, until the six hours are over."""
        waiting = list(OUR_FAULTS)
        while (now_ms := self._now_ms()) < self.interval.end_ms:
            if waiting and now_ms >= self.interval.start_ms + waiting[0].after_s * 1000:
                blow = waiting.pop(0)
                self._strike(blow)
            time.sleep(_POLL_S)

    def _strike(self, blow: Blow) -> None:
        at = iso(self._now_ms())
        try:
            what = blow.strike(self)
        except (OhlcvError, requests.RequestException, OSError, LookupError) as error:
            what = f"FAILED: {error}"
        self.done.append((blow.name, what))
        self._say(f"{blow.name} ({at}): {what}")

    # What is broken on our side ---------------------------------------------------------------------------------

    def kill_stream(self, market: Market) -> str:
        """Kill with -9 the process of the market's streaming run whose hour is running."""
        hour, pid = self._live_worker(market)
        if b"multiprocessing" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            raise Refused(f"process {pid} is no run's worker")
        os.kill(pid, signal.SIGKILL)
        return f"{market} {hour}, process {pid}"

    def _live_worker(self, market: Market) -> tuple[str, int]:
        """The hour that is running and the process that streams it; waited for, for it may be starting."""
        deadline_s = time.monotonic() + _WORKER_WALL_S
        while time.monotonic() < deadline_s:
            hour = _hour_key(self._now_ms())
            live = [run for run in self._runs(market) if run["status"] == "STARTED" and _partition(run) == hour]
            for run in live:
                events = self._ask(_EVENTS, id=run["runId"])["logsForRun"].get("events", [])
                pids = [int(found[1]) for event in events if (found := _PID.search(event.get("message") or ""))]
                if pids:
                    return hour, pids[-1]
            time.sleep(_POLL_S)
        raise Refused(f"no run of {market} streams {_hour_key(self._now_ms())}")

    def restart_postgres(self) -> str:
        """Stop the server in good order, leave it down for two seconds, start it."""
        local = LocalPostgres(self.home)
        local.down()
        time.sleep(2)
        return f"down 2 s, again on port {local.up().port}"

    def kill_postgres(self) -> str:
        """Kill with -9 the postmaster; nobody starts it but who misses it."""
        pid = LocalPostgres(self.home).status().pid
        if pid is None:
            raise Refused("PostgreSQL does not run")
        os.kill(pid, signal.SIGKILL)
        return f"process {pid}"

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        return _insistently(lambda: self.platform.api.ask(query, **variables))

    # The end ----------------------------------------------------------------------------------------------------

    def _runs(self, market: Market) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask(_RUNS, job=f"{market}_stream_hour")["runsOrError"].get("results", [])
        return [run for run in found if _partition(run) in self._hours()]

    def _hours(self) -> list[str]:
        starts = range(self.interval.start_ms, self.interval.end_ms, HOUR_MS)
        return [_hour_key(start) for start in starts]

    def _wait_for_runs(self) -> None:
        """Until every hour of both markets has a run that ended well."""
        deadline_s = time.monotonic() + _SETTLED_WALL_S
        while time.monotonic() < deadline_s:
            lacking = [(m, h) for m in Market for h in set(self._hours()) - _succeeded(self._runs(m))]
            if not lacking:
                return
            time.sleep(2 * _POLL_S)
        self._say(f"[red]hours without a run that ended well: {sorted(lacking)}[/red]")

    def _report(self, truth: Truth, taken_s: float) -> bool:
        with closing(Database.open(self.settings)) as database:
            verdicts = {market: judge(database, truth, market, self.interval) for market in Market}
        runs = {market: self._runs(market) for market in Market}
        numbers = {market: self._numbers(market) for market in Market}
        self.console.print(self._table(verdicts, runs, numbers))
        ledger = self.exchange.ledger()
        self.console.print(_faults_table(ledger, self.done))
        for line in (*machine(), f"{taken_s:.0f} s in all"):
            self.console.print(line, highlight=False)
        perfect = all(verdict.perfect for verdict in verdicts.values())
        for trouble in (troubles := self._not_done(ledger)):
            self.console.print(f"[red]not done: {trouble}[/red]", highlight=False)
        self.console.print("[green]every bar is there, once, and right[/green]" if perfect else "[red]LOSS[/red]")
        return perfect and not troubles

    def _not_done(self, ledger: list[dict[str, Any]]) -> list[str]:
        """What should have been broken and was not: then the soak proves less than it says."""
        troubles = [f"{name}: {what}" for name, what in self.done if what.startswith("FAILED")]
        if len(self.done) < len(OUR_FAULTS):
            troubles.append(f"only {len(self.done)} of {len(OUR_FAULTS)} blows were struck")
        if (cuts := _moments(ledger, "ws_")) < CUTS:
            troubles.append(f"the WebSocket was cut at {cuts} of {CUTS} moments: no stream was there at the others")
        if not _moments(ledger, "rest_429"):
            troubles.append("REST never answered 429: nothing was asked meanwhile")
        return troubles

    def _numbers(self, market: Market) -> list[dict[str, Any]]:
        asset = [self.settings.region, market.value, "streamed_bars"]
        found = _insistently(lambda: self.platform.api.materializations(asset, self._hours()))
        return list(found.values())

    def _table(
        self,
        verdicts: dict[Market, Verdict],
        runs: dict[Market, list[dict[str, Any]]],
        numbers: dict[Market, list[dict[str, Any]]],
    ) -> Table:
        def of(name: str) -> Callable[[Market], object]:
            return lambda market: getattr(verdicts[market], name)

        def worst(name: str) -> Callable[[Market], object]:
            return lambda market: " ".join(f"{hour[name]:.1f}" for hour in numbers[market] if name in hour) or "none"

        rows: dict[str, Callable[[Market], object]] = {
            f"bars expected ({self.symbols} symbols x {self.hours} h)": of("expected"),
            "bars stored": of("stored"),
            "  by WebSocket": lambda market: verdicts[market].by_channel.get("websocket", 0),
            "  by REST": lambda market: verdicts[market].by_channel.get("rest", 0),
            "lost": of("lost"),
            "duplicated": of("duplicated"),
            "wrong": of("wrong"),
            "revisions": of("revisions"),
            "runs started": lambda market: len(runs[market]),
            "  of them replaced others": lambda market: (
                len(runs[market]) - len({_partition(r) for r in runs[market]})
            ),
            "  how runs ended": lambda market: " ".join(
                f"{count} {status}" for status, count in sorted(Counter(r["status"] for r in runs[market]).items())
            ),
            "reconnects": lambda market: sum(int(hour.get("reconnects", 0)) for hour in numbers[market]),
            "REST repairs": lambda market: sum(int(hour.get("rest_repairs", 0)) for hour in numbers[market]),
            "latency p50 by hour, exchange s": worst("latency_p50_s"),
            "latency p99 by hour, exchange s": worst("latency_p99_s"),
            "event to commit p99 by hour, our ms": worst("event_to_commit_p99_ms"),
        }
        return market_table(f"soak: {self.interval} at {self.speed:g}x", rows)


def _insistently(ask: Callable[[], T]) -> T:
    """Ask Dagster's webserver: its pool gives out each connection that died with PostgreSQL once."""
    for _ in range(_STALE_CONNECTIONS):
        try:
            return ask()
        except (Refused, requests.RequestException):
            time.sleep(_POLL_S)
    return ask()


def _hour_key(moment_ms: int) -> str:
    return from_ms(moment_ms).strftime("%Y-%m-%d-%H:00")


def _partition(run: dict[str, Any]) -> str:
    return next((tag["value"] for tag in run["tags"] if tag["key"] == "dagster/partition"), "none")


def _succeeded(runs: list[dict[str, Any]]) -> set[str]:
    return {_partition(run) for run in runs if run["status"] == "SUCCESS"}


def _faults_table(ledger: list[dict[str, Any]], done: list[tuple[str, str]]) -> Table:
    table = Table(title="what was broken", title_justify="left")
    for name in ("fault", "moments", "what happened"):
        table.add_column(name)
    for name, times in sorted(Counter(str(entry["fault"]) for entry in ledger).items()):
        what = "requests refused" if name.startswith("rest") else "connections cut or refused"
        table.add_row(name, str(_moments(ledger, name)), f"{times:,} {what} (the exchange's ledger)")
    for name, what in done:
        table.add_row(name, "1", what)
    return table


def _moments(ledger: list[dict[str, Any]], prefix: str) -> int:
    """How many rules of these faults hit anything."""
    return len({entry["rule"] for entry in ledger if str(entry["fault"]).startswith(prefix)})


def exchange_faults(interval: Interval) -> list[dict[str, Any]]:
    """What the exchange does: nine short cuts, one of 75 s across a minute's end, REST that answers 429 meanwhile.

    Args:
        interval: the hours that are streamed.
    """

    def at(hours: int, minutes: int, seconds: int = 0) -> int:
        return interval.start_ms + (hours * 3600 + minutes * 60 + seconds) * 1000

    resets = [(0, 12, 20), (0, 20, 58), (2, 5, 30), (3, 48, 2), (5, 10, 0)]
    closes = [(1, 33, 59), (2, 51, 15), (4, 27, 40), (5, 50, 50)]
    outage = {"fault": "ws_refuse", "from": at(3, 20, 30), "until": at(3, 21, 45)}
    busy = {"fault": "rest_429", "from": at(4, 27, 30), "until": at(4, 33, 0), "endpoints": ["klines"], "retry_after_s": 30}  # fmt: skip
    return [
        *({"fault": "ws_reset", "from": at(*time_), "until": at(*time_) + 1000} for time_ in resets),
        *({"fault": "ws_close", "from": at(*time_), "until": at(*time_) + 1000} for time_ in closes),
        outage,
        busy,
    ]


#: How many moments `exchange_faults` has in which WebSockets are cut.
CUTS = 10
#: In order of time: run workers killed, PostgreSQL (with Dagster's own storage in it) stopped and killed.
OUR_FAULTS: tuple[Blow, ...] = (
    Blow(25 * 60, "run killed (-9)", lambda soak: soak.kill_stream(Market.FUTURES)),
    Blow(75 * 60, "PostgreSQL restarted", lambda soak: soak.restart_postgres()),
    Blow(150 * 60, "run killed (-9)", lambda soak: soak.kill_stream(Market.SPOT)),
    Blow(285 * 60, "PostgreSQL killed (-9)", lambda soak: soak.kill_postgres()),
)


def main(
    hours: int = typer.Option(6, min=6, max=20, help="Replayed hours."),
    symbols: int = typer.Option(24, min=1, help="Symbols a market."),
    speed: float = typer.Option(60.0, min=1, max=600, help="Exchange seconds per second."),
    sensor_interval_s: int = typer.Option(
        15, min=1, help="Seconds between two ticks of the sensors; each comparison takes seconds of processor time."
    ),
) -> None:
    """Break what can be broken for six replayed hours, and count the bars."""
    console = Console()
    console.print(f"[bold]soak[/bold]: {hours} hours at {speed:g}x, {symbols} symbols a market", highlight=False)
    soak = Soak(console, read_settings().home / "soak", hours, symbols, speed, sensor_interval_s)
    sys.exit(0 if soak.run() else 1)


if __name__ == "__main__":
    typer.run(main)
