"""The simulated exchange: its truth, and what each channel says of a bar at a moment.

Lives here: `World`, with the bars, the fates of the plan, and the connections that hear its events; it counts every fault
that met somebody. Does not: HTTP or frames (transport.py). Bars, their text and their unfinished forms are the replay
exchange's own, so that the wire form here is the one that is tested there.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any, Protocol

import polars as pl

from ohlcv_assets.bars import VALUES
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.generate import generated_bars
from ohlcv_assets.replay.listing import futures_listing, spot_listing
from ohlcv_assets.replay.partial import Kline, so_far
from ohlcv_assets.replay.tape import MarketTape, SymbolTape
from ohlcv_assets.replay.weights import WeightPool
from ohlcv_assets.replay.wire import kline_event, kline_row
from ohlcv_assets.timestamps import MINUTE_MS, Interval, day_start_ms
from ohlcv_assets_tests.faults.simulation.faults import BEFORE_S, BarFate, Plan, Window
from ohlcv_assets_tests.faults.simulation.loop import VirtualLoop

_DAY = date(2025, 6, 1)
#: Before a symbol is listed, and after the last bar of the world, there is nothing.
_MARGIN_MINUTES = (5, 40)
_PARTIALS_EVERY_S = 6.0
#: A process's clock may run so much faster than the exchange's over the longest stop.
_STOP_TOLERANCE_S = 0.05
_LIMITS = {Market.SPOT: 6000, Market.FUTURES: 2400}

Key = tuple[str, int]
Values = tuple[Any, ...]


class Listener(Protocol):
    """A connection, as the exchange sees it."""

    streams: set[str]

    def send(self, text: str) -> None:
        """Send a frame, at once."""
        ...

    def hang_up(self, *, cleanly: bool) -> None:
        """End the connection."""
        ...

    def go_dark(self) -> None:
        """Leave the socket open, and never say or hear anything again."""
        ...


class World:
    """One exchange of one market for the time of one run.

    Args:
        plan: what goes wrong.
        loop: whose time is the exchange's.

    Attributes:
        truth: the bars as they are at last, the bar's key and value columns, sorted.
        interval: the minutes that the run must capture.
        injected: how many faults of each kind met somebody.
        listeners: the open connections.
        violations: promises that were seen broken while it ran.
    """

    def __init__(self, plan: Plan, loop: VirtualLoop) -> None:
        self.plan, self.loop = plan, loop
        self.start_loop_s = loop.time()
        self.chance = random.Random(f"world {plan.seed}")
        start_ms = day_start_ms(_DAY) + self.chance.randrange(60, 1300) * MINUTE_MS
        self.interval = Interval(start_ms, start_ms + plan.minutes * MINUTE_MS)
        self.truth = self._made_truth()
        self.tape = MarketTape(plan.market, self.truth)
        self.pool = WeightPool(_LIMITS[plan.market])
        self.injected: Counter[str] = Counter()
        self.listeners: list[Listener] = []
        self.finals: dict[str, dict[int, Kline]] = {
            name: {kline.timestamp: kline for kline in map(tape.kline, range(len(tape.timestamps)))}
            for name, tape in self.tape.symbols.items()
        }
        self.violations: list[str] = []
        self._stopped = (0.0, 0.0)
        self._places = {name: place for place, name in enumerate(self.tape.symbols)}
        self._lies: Counter[Key] = Counter()
        self._trace = hashlib.blake2b()
        self.show: Callable[[str], None] = lambda _line: None

    # Time and the record of what happened -----------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Seconds of the world."""
        return self.loop.time() - self.start_loop_s

    @property
    def now_ms(self) -> int:
        """UNIX milliseconds on the exchange's clock."""
        return int(self.interval.start_ms + (self.now_s - BEFORE_S) * 1000)

    def note(self, *words: object) -> None:
        """Write down that something happened; the same seed gives the same lines."""
        line = f"{self.now_s:10.3f} {' '.join(map(str, words))}"
        self._trace.update(line.encode())
        self.show(line)

    def inject(self, fault: str, *where: object) -> None:
        """A fault has met somebody."""
        self.injected[fault] += 1
        self.note("fault", fault, *where)

    @property
    def trace_hash(self) -> str:
        """The same for the same history."""
        return self._trace.hexdigest()[:16]

    def window(self, fault: str) -> Window | None:
        """The open window of a fault, if there is one and chance lets it act now."""
        now_s = self.now_s
        for window in self.plan.windows:
            if window.fault == fault and window.start_s <= now_s < window.end_s:
                return window if window.share >= 1 or self.chance.random() < window.share else None
        return None

    def stop_until(self, end_s: float) -> None:
        """The exchange has ordered a stop, and the order has arrived."""
        self._stopped = (self.now_s, max(self._stopped[1], end_s))

    def asked(self, sent_s: float) -> None:
        """See that nobody asks while he knows that he must not."""
        ordered_s, end_s = self._stopped
        if ordered_s < sent_s < end_s - _STOP_TOLERANCE_S:
            self.violations.append(f"asked at {sent_s:.3f} s, with a stop from {ordered_s:.3f} to {end_s:.3f} s")

    def look_at(self, bars: pl.DataFrame) -> None:
        """See that nothing is stored whose minute is not over."""
        for symbol, minute in bars.filter(pl.col("timestamp") + MINUTE_MS > self.now_ms).select("symbol", "timestamp").rows():  # fmt: skip
            self.violations.append(f"stored before its minute was over: {symbol} {minute}")

    # What is on the exchange ------------------------------------------------------------------------------------

    def _made_truth(self) -> pl.DataFrame:
        plan, before, after = self.plan, *_MARGIN_MINUTES
        bars = generated_bars(plan.market, symbols=plan.symbols, days=1, seed=plan.seed, first_day=_DAY)
        first_ms, last_ms = self.interval.start_ms - before * MINUTE_MS, self.interval.end_ms + after * MINUTE_MS
        bars = bars.filter(pl.col("timestamp").is_between(first_ms, last_ms, closed="left"))
        symbols = bars["symbol"].unique(maintain_order=True).to_list()
        absent = {(symbols[place], self.interval.start_ms + m * MINUTE_MS) for place, m in plan.halted}
        for place, minutes in plan.listed_after.items():
            listed_ms = self.interval.start_ms + minutes * MINUTE_MS
            absent |= {(symbols[place], minute) for minute in range(first_ms, listed_ms, MINUTE_MS)}
        gone = pl.DataFrame(sorted(absent), schema={"symbol": pl.String, "timestamp": pl.Int64}, orient="row")
        return bars.join(gone, on=("symbol", "timestamp"), how="anti").sort("symbol", "timestamp")

    def listing(self) -> dict[str, Any]:
        """The exchangeInfo document."""
        shape = spot_listing if self.plan.market is Market.SPOT else futures_listing
        return shape(self.tape) | {"serverTime": self.now_ms}

    def fate(self, name: str, minute_ms: int) -> BarFate:
        """The fate of one bar."""
        key = (self._places[name], (minute_ms - self.interval.start_ms) // MINUTE_MS)
        return self.plan.bars.get(key, _HEALTHY)

    def early(self, name: str, minute_ms: int) -> Kline | None:
        """The bar before its last trades; None for a bar that has no such value."""
        if not self.fate(name, minute_ms).has_early_value:
            return None
        final = self.finals[name][minute_ms]
        early = so_far(final, minute_ms + MINUTE_MS - 700, self.tape.symbols[name].decimals)
        return early if early != final else None

    def values(self, kline: Kline) -> Values:
        """The values of a bar in the order of `bars.VALUES`."""
        return tuple(kline[1 : 1 + len(VALUES)])

    # REST -------------------------------------------------------------------------------------------------------

    def page(self, name: str, first_ms: int, last_ms: int, limit: int, lie: str | None) -> str:
        """The klines of an answer as JSON text, with the unfinished one where the range reaches it."""
        tape, now_ms = self.tape.symbols[name], self.now_ms
        shown = {minute: self._shown(tape, kline, now_ms) for minute, kline in self.finals[name].items() if first_ms <= minute <= last_ms}  # fmt: skip
        rows = {minute: kline for minute, kline in shown.items() if kline is not None}
        rows = dict(sorted(rows.items())[:limit])
        if lie is not None:
            self._leave_out(name, rows, lie)
        return f"[{','.join(kline_row(kline, tape.printed) for kline in rows.values())}]"

    def _shown(self, tape: SymbolTape, final: Kline, now_ms: int) -> Kline | None:
        """What REST has of a bar now."""
        if now_ms < final.timestamp:
            return None
        age_s = (now_ms - final.timestamp - MINUTE_MS) / 1000
        if age_s < 0:
            return so_far(final, now_ms, tape.decimals)
        fate = self.fate(tape.name, final.timestamp)
        if age_s < fate.rest_lag_s:
            self.inject("rest_late_bar", tape.name, final.timestamp)
            return None
        return (self.early(tape.name, final.timestamp) if age_s < fate.settles_s else None) or final

    def _leave_out(self, name: str, rows: dict[int, Kline], lie: str) -> None:
        """Drop rows, but no bar twice that is old enough for two answers to name it missing."""
        old = {minute for minute in rows if minute + MINUTE_MS + LIE_AGE_MS <= self.now_ms}
        left_out = {m for m in rows if lie == "rest_empty_list" or self.chance.random() < 0.4}
        left_out = {minute for minute in left_out if minute not in old or not self._lies[name, minute]}
        self._lies.update((name, minute) for minute in left_out & old)
        if left_out:
            self.inject(lie, name, sorted(left_out))
        for minute in left_out:
            del rows[minute]

    # Events -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Schedule every event and every moment of a fault; connections hear what happens while they are open."""
        for tape in self.tape.symbols.values():
            for final in self.finals[tape.name].values():
                for at_s, lag_s in self._sendings(tape, final):
                    if at_s >= self.now_s:
                        self._at(at_s, self._tell, tape, final, lag_s)
        for window in self.plan.windows:
            self._at(window.start_s, self._strike, window)
        for fault, count in self.plan.standing().items():
            self.injected[fault] += count

    def _at(self, at_s: float, action: Callable[..., None], *arguments: object) -> None:
        self.loop.call_at(self.start_loop_s + at_s, action, *arguments)

    def _sendings(self, tape: SymbolTape, final: Kline) -> Iterator[tuple[float, float | None]]:
        """When something is sent about a bar, in seconds of the world, and how late: None for an unfinished bar."""
        starts_s = BEFORE_S + (final.timestamp - self.interval.start_ms) / 1000
        if final.trade_count == 0 and self.plan.market is Market.FUTURES:
            self.injected["no_trade_no_event"] += 1
            return
        at_s = self.chance.uniform(0.3, _PARTIALS_EVERY_S)
        while at_s < 60:
            yield starts_s + at_s, None
            at_s += self.chance.uniform(0.5, 1.5) * _PARTIALS_EVERY_S
        fate = self.fate(tape.name, final.timestamp)
        for lag_s in fate.lags_s:
            yield starts_s + 60 + lag_s, lag_s
        for fault, happens in (
            ("never_closed", not fate.lags_s),
            ("late_close", any(3.0 <= lag_s < 60 for lag_s in fate.lags_s)),
            ("out_of_order", any(lag_s >= 60 for lag_s in fate.lags_s)),
            ("duplicate_close", len(fate.lags_s) > 1),
            ("late_trade", fate.has_early_value),
        ):
            self.injected[fault] += happens

    def _tell(self, tape: SymbolTape, final: Kline, lag_s: float | None) -> None:
        shown = final if lag_s is not None else so_far(final, self.now_ms, tape.decimals)
        if lag_s is not None:
            fate = self.fate(tape.name, final.timestamp)
            shown = (self.early(tape.name, final.timestamp) if fate.early_event or lag_s < fate.settles_s else None) or final  # fmt: skip
        text = kline_event(shown, tape.printed, name=tape.name, event_ms=self.now_ms, closed=lag_s is not None)
        for listener in self.listeners:
            if tape.stream in listener.streams:
                listener.send(f'{{"stream":"{tape.stream}","data":{text}}}')

    def _strike(self, window: Window) -> None:
        """What a fault does to the connections that are open when it begins."""
        for listener in list(self.listeners):
            if window.fault in ("ws_close", "ws_reset"):
                listener.hang_up(cleanly=window.fault == "ws_close")
            elif window.fault == "ws_refuse":
                listener.hang_up(cleanly=False)
            elif window.fault == "ws_half_open":
                listener.go_dark()
            elif window.fault == "ws_server_shutdown":
                listener.send(json.dumps({"e": "serverShutdown", "E": self.now_ms}))
                self.loop.call_later(5.0, lambda each: each.hang_up(cleanly=True), listener)
            else:
                continue
            self.inject(window.fault)


#: Two answers about a bar that ended so long ago, and not both of them lie (the product asks for as much).
LIE_AGE_MS = 58_000
_HEALTHY = BarFate((0.2,))
