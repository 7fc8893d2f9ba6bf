"""What goes wrong in one run, all of it drawn from one seed.

Lives here: `Plan` and its parts, and `draw`. Does not: doing any of it (world.py, transport.py, store.py, run.py). The
names of faults are those of the replay exchange's script where it knows the same fault.

The mixture is bounded so that the promise is due: faults end, the exchange has each bar by REST within
`LONGEST_REST_LAG_S`, and of two answers about a bar that is older than that not both lie.
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ohlcv_assets.instruments import Market

#: Virtual seconds before the interval begins; the world exists from here on.
BEFORE_S = 180.0
LONGEST_REST_LAG_S = 50.0

#: Faults of an answer by REST; those of `LIES` are healthy answers that lack bars.
LIES = ("rest_short_page", "rest_empty_list")
REST_FAULTS = (
    "rest_429", "rest_418", "rest_5xx", "rest_403", "rest_timeout", "rest_reset", "rest_truncated", "rest_html",
    "rest_empty", "rest_null", "rest_garbage", "rest_error_code", *LIES,
)  # fmt: skip
_SOCKET_MOMENTS = ("ws_close", "ws_reset", "ws_half_open", "ws_server_shutdown")
_SOCKET_WINDOWS = ("ws_silent", "ws_stall", "ws_refuse", "ws_drop_subscription")
_DATABASE_WINDOWS = ("db_outage", "db_lost_acknowledgement", "db_slow")


@dataclass(frozen=True)
class Window:
    """A fault that is there from `start_s` to `end_s` (seconds of the world), for a share of what it could meet."""

    fault: str
    start_s: float
    end_s: float
    share: float = 1.0


@dataclass(frozen=True)
class BarFate:
    """What becomes of one bar on its way out of the exchange.

    Attributes:
        lags_s: how long after its end each closing event is sent; none: never.
        early_event: closing events carry the value before the last trade, whenever they are sent.
        settles_s: so long after its end the exchange still has the value before the last trade.
        rest_lag_s: so long after its end REST does not have the bar.
    """

    lags_s: tuple[float, ...]
    early_event: bool = False
    settles_s: float = 0.0
    rest_lag_s: float = 0.0

    @property
    def has_early_value(self) -> bool:
        """Whether the value before the last trade can be seen by anybody."""
        return self.early_event or self.settles_s > 0


@dataclass(frozen=True)
class Kill:
    """At `at_s` the streamer ends: by `kill -9`, or by a cancellation that it may answer."""

    at_s: float
    gently: bool


@dataclass(frozen=True)
class Clock:
    """How wrong a process is about the exchange's clock, how wrong it knows that it can be, and how fast it drifts."""

    error_s: float
    uncertainty_s: float
    drift: float


@dataclass(frozen=True)
class Plan:
    """Everything that one seed decides, apart from the bars themselves. Times are seconds of the world.

    Attributes:
        listed_after: minutes after the interval's start in which a symbol is listed, by the symbol's place; 0 for the others.
        halted: (place of the symbol, minute counted from the interval's start) without a bar on the exchange.
        idle: the same, of minutes without a trade and, on futures, without an event.
        spool: whether bars wait on disk while the database is away; without it an outage ends the streamer.
        looks_s: when somebody fetches the interval as far as it is over, beside the streamers.
        twin: when a second streamer of the same interval starts and is killed.
        bars: the fate of (place of the symbol, minute); those not here are healthy.
    """

    seed: int
    market: Market
    symbols: int
    minutes: int
    delay_s: float
    overlap_s: float
    starts_s: float
    clock: Clock
    weight_share: float
    listed_after: dict[int, int]
    halted: frozenset[tuple[int, int]]
    windows: tuple[Window, ...]
    kills: tuple[Kill, ...]
    twin: tuple[float, float] | None
    spool: bool = True
    looks_s: tuple[float, ...] = ()
    bars: dict[tuple[int, int], BarFate] = field(default_factory=dict)

    @property
    def ends_s(self) -> float:
        """When the interval is over and no fault is left."""
        interval_ends_s = BEFORE_S + self.minutes * 60
        latest_event_s = max((lag for fate in self.bars.values() for lag in fate.lags_s), default=0.0)
        return max(
            interval_ends_s + max(latest_event_s, LONGEST_REST_LAG_S),
            0.0,
            *(window.end_s for window in self.windows),
            *(kill.at_s for kill in self.kills),
            self.twin[1] if self.twin else 0.0,
        )

    def standing(self) -> Counter[str]:
        """What is wrong for the whole run, or in the truth itself; the rest is counted when it meets somebody."""
        return Counter(
            {
                "clock_wrong": int(abs(self.clock.error_s) > 0.01),
                "tight_budget": int(self.weight_share < 0.1),
                "halted_minutes": len(self.halted),
                "listed_meanwhile": len(self.listed_after),
                "started_late": int(self.starts_s > BEFORE_S),
                "without_spool": int(not self.spool),
                "db_slow": sum(window.fault == "db_slow" for window in self.windows),
            }
        )


def calm(seed: int, *, market: Market = Market.FUTURES, symbols: int = 2, minutes: int = 5) -> Plan:
    """A plan in which nothing goes wrong, to be changed by `dataclasses.replace`."""
    return Plan(
        seed=seed,
        market=market,
        symbols=symbols,
        minutes=minutes,
        delay_s=3.5,
        overlap_s=60.0,
        starts_s=60.0,
        clock=Clock(0.0, 0.001, 0.0),
        weight_share=0.95,
        listed_after={},
        halted=frozenset(),
        windows=(),
        kills=(),
        twin=None,
    )


def draw(seed: int, minutes: int) -> Plan:
    """The plan of a seed.

    Args:
        seed: decides everything.
        minutes: length of the interval.
    """
    chance = random.Random(f"plan {seed}")
    market = chance.choice(list(Market))
    symbols = chance.randint(2, 4)
    end_s = BEFORE_S + minutes * 60
    # Some seeds are calm and some are wild: a lone fault shows what many together can hide.
    wildness = chance.choice((0.3, 1.0, 1.0, 2.5))
    return Plan(
        seed=seed,
        market=market,
        symbols=symbols,
        minutes=minutes,
        delay_s=chance.choice((3.5, 3.5, 1.0, 10.0)),
        overlap_s=chance.choice((60.0, 120.0)),
        # Two minutes early as the sensor does, or late, when a part of the interval is over.
        starts_s=chance.choice((60.0, 60.0, 60.0, chance.uniform(0.0, end_s))),
        clock=_clock(chance),
        weight_share=chance.choice((0.95, 0.95, 0.95, 0.02)),
        listed_after={symbols - 1: chance.randrange(1, minutes)} if chance.random() < 0.25 else {},
        halted=frozenset(_halted(chance, market, symbols, minutes)),
        windows=tuple(sorted(_windows(chance, wildness, end_s), key=lambda window: (window.start_s, window.fault))),
        kills=tuple(_kills(chance, end_s)),
        twin=_twin(chance, end_s) if chance.random() < 0.35 else None,
        bars=dict(_bars(chance, wildness, symbols, minutes)),
        spool=chance.random() < 0.75,
        looks_s=tuple(chance.uniform(BEFORE_S + 61.0, end_s + 30.0) for _ in range(chance.randint(0, 2))),
    )


def _clock(chance: random.Random) -> Clock:
    uncertainty_s = chance.choice((0.001, 0.02, 0.2, 1.0))
    return Clock(chance.uniform(-uncertainty_s, uncertainty_s), uncertainty_s, chance.uniform(-2e-4, 2e-4))


def _halted(chance: random.Random, market: Market, symbols: int, minutes: int) -> Iterable[tuple[int, int]]:
    """A halt of some minutes; all symbols of the spot market stop together."""
    if market is Market.SPOT and chance.random() < 0.25:
        first = chance.randrange(minutes)
        for minute in range(first, min(minutes, first + chance.randint(1, 4))):
            yield from ((place, minute) for place in range(symbols))


def _windows(chance: random.Random, wildness: float, end_s: float) -> Iterable[Window]:
    for kind in (*_SOCKET_MOMENTS, *_SOCKET_WINDOWS, *_DATABASE_WINDOWS, *REST_FAULTS):
        for _ in range(_how_many(chance, 0.35 * wildness)):
            # Every second one begins just before a minute ends: there it hurts.
            start_s = chance.uniform(30.0, end_s + 30.0)
            if chance.random() < 0.5:
                start_s = max(30.0, start_s - start_s % 60 - chance.uniform(0.0, 3.0))
            yield Window(kind, start_s, start_s + _length_s(chance, kind), _share(chance, kind))
    if chance.random() < 0.3:
        yield Window(chance.choice(LIES), 30.0, end_s + 90.0, chance.uniform(0.2, 0.8))


def _length_s(chance: random.Random, kind: str) -> float:
    if kind in _SOCKET_MOMENTS:
        return 0.0
    if kind in ("rest_429", "rest_418"):
        return chance.uniform(1.0, 20.0)
    return chance.choice((chance.uniform(1.0, 10.0), chance.uniform(10.0, 90.0), chance.uniform(90.0, 240.0)))


def _share(chance: random.Random, kind: str) -> float:
    if kind in _SOCKET_MOMENTS or kind in ("ws_silent", "ws_stall", "ws_refuse", "db_outage", "db_slow"):
        return 1.0
    return chance.uniform(0.3, 1.0)


def _kills(chance: random.Random, end_s: float) -> Iterable[Kill]:
    for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
        yield Kill(chance.uniform(61.0, end_s + 60.0), gently=chance.random() < 0.3)


def _twin(chance: random.Random, end_s: float) -> tuple[float, float]:
    start_s = chance.uniform(30.0, end_s - 30.0)
    return start_s, start_s + chance.uniform(30.0, 600.0)


def _bars(
    chance: random.Random, wildness: float, symbols: int, minutes: int
) -> Iterable[tuple[tuple[int, int], BarFate]]:
    """The fates of the interval's bars, and of those a little before and after it."""
    for place in range(symbols):
        for minute in range(-3, minutes + 4):
            fate = BarFate((chance.lognormvariate(-1.6, 0.5),))
            if chance.random() < 0.15 * wildness:
                fate = _fault_of_a_bar(chance, fate)
            yield (place, minute), fate


def _fault_of_a_bar(chance: random.Random, healthy: BarFate) -> BarFate:
    lag_s = healthy.lags_s[0]
    return chance.choice(
        (
            BarFate(()),
            BarFate((), rest_lag_s=chance.uniform(0.0, LONGEST_REST_LAG_S)),
            BarFate((chance.uniform(3.0, 30.0),)),
            BarFate((lag_s, lag_s + chance.uniform(0.0, 5.0), lag_s + chance.uniform(0.0, 30.0))),
            BarFate((60.0 + chance.uniform(0.2, 20.0),)),
            BarFate(healthy.lags_s, early_event=True, settles_s=lag_s),
            BarFate((), settles_s=chance.uniform(1.0, 40.0)),
            BarFate((chance.uniform(2.0, 30.0),), settles_s=chance.uniform(1.0, 20.0)),
            BarFate((lag_s, chance.uniform(5.0, 40.0)), settles_s=chance.uniform(1.0, 4.0)),
        )
    )


def _how_many(chance: random.Random, mean: float) -> int:
    """A small number: 0 mostly, with this mean."""
    count = 0
    while count < 4 and chance.random() < mean / (1 + mean):
        count += 1
    return count
