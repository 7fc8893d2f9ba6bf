"""What `ohlcv stream` shows: a live table on a terminal, a line a minute elsewhere, JSON for machines.

Lives here: the three displays. Does not: any number (exchange/stream_status.py).
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ohlcv_assets.bars import Channel
from ohlcv_assets.exchange.stream_report import Percentiles, StreamReport
from ohlcv_assets.exchange.stream_status import MinuteStatus, StreamStatus
from ohlcv_assets.instruments import Market
from ohlcv_assets.timestamps import Interval, iso, label_end, runs_of_minutes

_REFRESH_S = 0.25
#: Lines of a terminal that are no symbol's.
_OTHER_LINES = 9


class Display:
    """One line a minute, for a person who reads a log."""

    def begin(self, market: Market, symbols: Sequence[str], interval: Interval) -> None:
        """The stream is about to begin."""
        print(f"streaming {len(symbols)} {market} symbols, minutes {interval}", flush=True)

    def start(self, status: Callable[[], StreamStatus]) -> None:
        """The stream has begun; `status` says how it stands."""

    def minute(self, told: MinuteStatus) -> None:
        """A minute is over."""
        lacking = f", lacking {_named(told.lacking)}" if told.lacking else ""
        spooled = f", {told.totals.bars_spooled} wait for PostgreSQL" if told.totals.bars_spooled else ""
        print(
            f"{iso(told.minute_ms)}  {told.present}/{told.expected} bars"
            f"  {told.by_channel[Channel.WEBSOCKET]} websocket, {told.by_channel[Channel.REST]} rest"
            f"  latency {_latency(told.latency_s)}  reconnects {told.totals.reconnects}{spooled}{lacking}",
            flush=True,
        )

    def stopping(self) -> None:
        """A signal came."""
        print("stopping when the bars of this minute are in; once more to stop at once", flush=True)

    def report(self, report: StreamReport) -> None:
        """The stream is over."""
        for line in _summary(report):
            print(line, flush=True)


class JsonDisplay(Display):
    """One JSON object a line; the last one is the report."""

    def begin(self, market: Market, symbols: Sequence[str], interval: Interval) -> None:
        """The stream is about to begin."""
        self._say("begin", market=market.value, symbols=list(symbols), start=iso(interval.start_ms), end=iso(interval.end_ms))  # fmt: skip

    def minute(self, told: MinuteStatus) -> None:
        """A minute is over."""
        self._say("minute", **told.facts())

    def stopping(self) -> None:
        """A signal came."""
        self._say("stopping")

    def report(self, report: StreamReport) -> None:
        """The stream is over."""
        late, slow = report.latency_s, report.event_to_commit_ms
        self._say(
            "report",
            market=report.market.value,
            start=iso(report.interval.start_ms),
            end=iso(report.interval.end_ms),
            bars_expected=report.bars_expected,
            bars_present=report.bars_present,
            bars_spooled=report.bars_spooled,
            bars_missing=report.missing.height,
            missing=_missing(report),
            bars_by_websocket=report.by_channel[Channel.WEBSOCKET],
            bars_by_rest=report.by_channel[Channel.REST],
            latency_p50_s=late.p50,
            latency_p95_s=late.p95,
            latency_p99_s=late.p99,
            latency_max_s=late.max,
            event_to_commit_p50_ms=slow.p50,
            event_to_commit_p99_ms=slow.p99,
            reconnects=report.reconnects,
            hand_overs=report.hand_overs,
            rest_repairs=report.rest_repairs,
            request_weight=report.weight_used,
        )

    def _say(self, event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, **facts}), flush=True)


class LiveDisplay(Display):
    """A table that is drawn again four times a second."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._symbols: list[str] = []
        self._note = ""
        self._drawing: asyncio.Task[None] | None = None

    def begin(self, market: Market, symbols: Sequence[str], interval: Interval) -> None:
        """The stream is about to begin."""
        self._symbols = list(symbols)

    def start(self, status: Callable[[], StreamStatus]) -> None:
        """Draw until the program's loop ends."""
        self._drawing = asyncio.get_running_loop().create_task(self._draw(status))

    def minute(self, told: MinuteStatus) -> None:
        """The table shows it already."""

    def stopping(self) -> None:
        """A signal came."""
        self._note = "stopping when the bars of this minute are in; Ctrl-C once more to stop at once"

    async def _draw(self, status: Callable[[], StreamStatus]) -> None:
        while True:
            self._live.update(self._drawn(status()), refresh=True)
            await asyncio.sleep(_REFRESH_S)

    def _drawn(self, now: StreamStatus) -> Group:
        head = (
            f"{now.market}  {now.interval}  exchange time {iso(now.now_ms)}\n"
            f"{now.bars_present}/{now.bars_due} bars, {now.by_channel[Channel.WEBSOCKET]} websocket, "
            f"{now.by_channel[Channel.REST]} rest, {now.bars_spooled} wait for PostgreSQL, {now.bars_missing} missing\n"
            f"latency {_latency(now.latency_s)}   reconnects {now.reconnects}   weight {now.weight_used}"
        )
        return Group(Text(head), self._table(now), Text(self._note or "Ctrl-C stops after this minute", style="dim"))

    def _table(self, now: StreamStatus) -> Table:
        table = Table("symbol", "last closed bar", "came by", "latency", box=None, pad_edge=False)
        room = max(3, self._live.console.size.height - _OTHER_LINES)
        for symbol in self._symbols[:room]:
            last = now.last_bars.get(symbol)
            if last is None:
                table.add_row(symbol, "-", "-", "-")
                continue
            latency = "-" if last.latency_s is None else f"{last.latency_s:.2f} s"
            table.add_row(symbol, f"ends {iso(label_end(last.timestamp))}", last.channel.value, latency)
        if len(self._symbols) > room:
            table.add_row(f"and {len(self._symbols) - room} more", "", "", "")
        return table


@contextmanager
def open_display(*, as_json: bool) -> Iterator[Display]:
    """The display that fits where standard output goes."""
    console = Console()
    if as_json:
        yield JsonDisplay()
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield LiveDisplay(live)
    else:
        yield Display()


def _summary(report: StreamReport) -> Iterator[str]:
    by = report.by_channel
    yield (
        f"{report.bars_present}/{report.bars_expected} bars of {report.market} {report.interval} are stored: "
        f"{by[Channel.WEBSOCKET]} by websocket, {by[Channel.REST]} by rest; latency {_latency(report.latency_s)}; "
        f"reconnects {report.reconnects}, request weight {report.weight_used}"
    )
    for symbol, runs in _missing(report).items():
        yield f"missing: {symbol} {', '.join(runs)}"


def _missing(report: StreamReport) -> dict[str, list[str]]:
    """Per symbol, the ranges of minutes that are missing."""
    minutes: dict[str, list[int]] = defaultdict(list)
    for symbol, minute in report.missing.iter_rows():
        minutes[symbol].append(minute)
    return {symbol: [str(run) for run in runs_of_minutes(each)] for symbol, each in minutes.items()}


def _latency(found: Percentiles) -> str:
    if found.p50 is None:
        return "-"
    return f"p50 {found.p50:.2f} s, p99 {found.p99:.2f} s, max {found.max:.2f} s"


def _named(symbols: Sequence[str]) -> str:
    more = f" and {len(symbols) - 5} more" if len(symbols) > 5 else ""
    return ", ".join(symbols[:5]) + more
