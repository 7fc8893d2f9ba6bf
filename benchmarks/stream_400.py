"""`make bench-stream`: 400 symbols on each market at Binance's own speed, for ten minutes, on this machine.

Lives here: two `ohlcv stream` processes against one replay exchange, one PostgreSQL, and what they took: latency, CPU
and memory. Does not: any capture. Exit code 1 when a bar is lost, there twice or wrong, or a latency misses its aim.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common import ReplayServer, Verdict, judge, machine, market_table, universe_of
from ohlcv_assets.instruments import Market, release_universe
from ohlcv_assets.platform.processes import free_port
from ohlcv_assets.platform.servers import Platform
from ohlcv_assets.replay.truth import Truth, generate_truth
from ohlcv_assets.settings import Settings, read_settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.local_postgres import LocalPostgres
from ohlcv_assets.timestamps import HOUR_MS, MINUTE_MS, Interval, day_start_ms, parse_time

DAY = date(2025, 6, 1)
UNIVERSE = "v0.1"
SEED = 7
#: The aims: from a bar's end to its commit, half and 99 in 100 of them, and from the event's arrival to the commit.
AIM_P50_S, AIM_P99_S, AIM_EVENT_P99_MS = 0.5, 5.0, 100.0
#: Starting is not what is measured: CPU counts from so many seconds on.
_WARM_S = 20.0
_GRACE_S = 180.0
_POLL_S = 1.0


@dataclass
class Process:
    """A streaming process, as the kernel sees it."""

    pid: int
    began_s: float = 0.0
    began_cpu_s: float = 0.0
    cpu_pct: float = 0.0
    peak_mib: float = 0.0

    def look(self) -> None:
        """Count the CPU seconds since the first look, and the largest memory so far."""
        folder = Path(f"/proc/{self.pid}")
        try:
            fields = (folder / "stat").read_text("ascii").rpartition(")")[2].split()
            status = (folder / "status").read_text("ascii")
        except OSError:  # it has ended
            return
        if "VmHWM:" not in status:
            return
        cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        self.peak_mib = int(status.partition("VmHWM:")[2].split()[0]) / 1024
        if not self.began_s:
            self.began_s, self.began_cpu_s = time.monotonic(), cpu_s
        elif (taken_s := time.monotonic() - self.began_s) > 0:
            self.cpu_pct = 100 * (cpu_s - self.began_cpu_s) / taken_s


@dataclass
class Bench:
    """One measurement."""

    console: Console
    home: Path
    minutes: int
    symbols: int
    processes: dict[Market, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.exchange = ReplayServer.at_port(free_port())
        self.settings = Settings(
            home=self.home,
            database_url=None,
            lake=None,
            universes=self.home / "universes",
            universe=UNIVERSE,
            exchange_url=self.exchange.url,
        )

    def run(self) -> bool:
        """Measure; whether everything was as it must be."""
        LocalPostgres(self.home).down()
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        truth = generate_truth(symbols=self.symbols, days=1, seed=SEED, first_day=DAY)
        release_universe(universe_of(truth, UNIVERSE), self.settings.universes)
        with Platform(self.settings) as platform:
            platform.start_postgres()
            # In the middle of an hour and well before its end: the exchange's clock is that of the data.
            start_ms = day_start_ms(DAY) + 12 * HOUR_MS + MINUTE_MS // 2
            command = self.exchange.command(
                symbols=self.symbols, first_day=DAY, days=1, seed=SEED, start_ms=start_ms, speed=1
            )
            platform.start("replay-exchange", command).wait_until(self.exchange.answers, timeout_s=300)
            reports = self._stream(platform)
            verdicts = self._judged(truth, reports)
        return self._report(reports, verdicts)

    def _stream(self, platform: Platform) -> dict[Market, dict[str, Any]]:
        """Both streams at once, to their end; their own last words."""
        hours = str(self.minutes / 60)
        servers = {}
        for market in Market:
            command = [sys.executable, "-m", "ohlcv_assets.cli", "stream", "--market", market.value]
            servers[market] = platform.start(f"stream-{market}", [*command, "--hours", hours, "--json"])
            self.processes[market] = Process(servers[market].pid)
        deadline_s = time.monotonic() + self.minutes * 60 + _GRACE_S
        time.sleep(_WARM_S)
        while any(server.alive for server in servers.values()) and time.monotonic() < deadline_s:
            for process in self.processes.values():
                process.look()
            time.sleep(_POLL_S)
        return {market: _last_words(server.log) for market, server in servers.items()}

    def _judged(self, truth: Truth, reports: dict[Market, dict[str, Any]]) -> dict[Market, Verdict]:
        with closing(Database.open(self.settings)) as database:
            return {
                market: judge(database, truth, market, Interval(parse_time(said["start"]), parse_time(said["end"])))
                for market, said in reports.items()
            }

    def _report(self, reports: dict[Market, dict[str, Any]], verdicts: dict[Market, Verdict]) -> bool:
        self.console.print(self._table(reports, verdicts))
        for line in machine():
            self.console.print(line, highlight=False)
        whole = all(verdict.perfect for verdict in verdicts.values())
        in_time = all(
            said["latency_p50_s"] < AIM_P50_S
            and said["latency_p99_s"] < AIM_P99_S
            and said["event_to_commit_p99_ms"] < AIM_EVENT_P99_MS
            for said in reports.values()
        )
        self.console.print("[green]whole[/green]" if whole else "[red]LOSS[/red]", end=", ")
        self.console.print("[green]in time[/green]" if in_time else "[red]an aim is missed[/red]")
        return whole and in_time

    def _table(self, reports: dict[Market, dict[str, Any]], verdicts: dict[Market, Verdict]) -> Table:
        title = f"{self.symbols} symbols a market, {self.minutes} minutes at 1x"
        rows = {
            "bars expected": lambda m: verdicts[m].expected,
            "bars stored": lambda m: verdicts[m].stored,
            "  by WebSocket": lambda m: reports[m]["bars_by_websocket"],
            "  by REST": lambda m: reports[m]["bars_by_rest"],
            "lost, duplicated, wrong": lambda m: f"{verdicts[m].lost}, {verdicts[m].duplicated}, {verdicts[m].wrong}",
            f"latency p50, bar's end to commit (aim < {AIM_P50_S:g} s)": lambda m: f"{reports[m]['latency_p50_s']:.2f} s",
            f"latency p99, bar's end to commit (aim < {AIM_P99_S:g} s)": lambda m: f"{reports[m]['latency_p99_s']:.2f} s",
            "latency max": lambda m: f"{reports[m]['latency_max_s']:.2f} s",
            "event's arrival to commit p50": lambda m: f"{reports[m]['event_to_commit_p50_ms']:.0f} ms",
            f"event's arrival to commit p99 (aim < {AIM_EVENT_P99_MS:g} ms)": lambda m: f"{reports[m]['event_to_commit_p99_ms']:.0f} ms",
            "CPU of the streaming process": lambda m: f"{self.processes[m].cpu_pct:.1f} %",
            "peak memory of the streaming process": lambda m: f"{self.processes[m].peak_mib:.0f} MiB",
            "REST repairs": lambda m: reports[m]["rest_repairs"],
            "reconnects": lambda m: reports[m]["reconnects"],
            "request weight": lambda m: reports[m]["request_weight"],
        }  # fmt: skip
        return market_table(title, rows)


def _last_words(log: Path) -> dict[str, Any]:
    """The report that a streaming process ends with, among its lines of JSON and its log."""
    for line in reversed(log.read_text("utf-8").splitlines()):
        if line.startswith("{") and '"event": "report"' in line:
            said: dict[str, Any] = json.loads(line)
            return said
    raise RuntimeError(f"a streaming process made no report: {log}")


def main(
    minutes: int = typer.Option(10, min=2, max=600, help="How long, in minutes."),
    symbols: int = typer.Option(400, min=1, max=1000, help="Symbols a market."),
) -> None:
    """Stream many symbols at Binance's own speed, and print what it took."""
    console = Console()
    console.print(f"[bold]bench-stream[/bold]: {symbols} symbols a market, {minutes} minutes", highlight=False)
    sys.exit(0 if Bench(console, read_settings().home / "bench-stream", minutes, symbols).run() else 1)


if __name__ == "__main__":
    typer.run(main)
