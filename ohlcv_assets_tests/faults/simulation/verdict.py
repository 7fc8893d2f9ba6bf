"""What is right and wrong at the end of a run: by the product's own quality code, and by plain counting beside it.

Lives here: `judge` and `Verdict`. Does not: the run (run.py). The two ways must agree: what match, coverage and
soundness say of the store against the settled answers of REST, and what the world knows that it did.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from ohlcv_assets.bars import KEY, VALUES
from ohlcv_assets.exchange.fetch import Fetched
from ohlcv_assets.exchange.stream_report import StreamReport
from ohlcv_assets.instruments import Market
from ohlcv_assets.quality.completeness import coverage
from ohlcv_assets.quality.match import match
from ohlcv_assets.quality.soundness import soundness
from ohlcv_assets.timestamps import MINUTE_MS
from ohlcv_assets_tests.faults.simulation.world import World

_CORRUPTIONS = 6
Key = tuple[str, int]
Values = tuple[Any, ...]


@dataclass(frozen=True)
class Verdict:
    """One seed's result.

    Attributes:
        bars: bars that the exchange has in the interval.
        lost: of these, neither stored nor... stored; `named` says which of them a report called missing.
        duplicated: rows beyond the first of a bar.
        wrong: stored values that the exchange never gave, or gave and nobody found.
        planted: late trades in the store and corruptions put there, and how many of them match named.
        found: of those.
        false_alarms: differences that match named and nobody planted.
        faults: how many of each kind met somebody.
        trace: the same for the same history.
        virtual_s: how long the world lived.
        violations: one line each; none: everything was kept.
    """

    seed: int
    bars: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    planted: int = 0
    found: int = 0
    false_alarms: int = 0
    revisions: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    trace: str = ""
    virtual_s: float = 0.0
    violations: tuple[str, ...] = ()

    @classmethod
    def of_failure(cls, world: World, reason: str) -> "Verdict":
        """The verdict of a run that did not come to its end."""
        return cls(
            world.plan.seed,
            faults=world.injected,
            trace=world.trace_hash,
            virtual_s=world.now_s,
            violations=(*world.violations, reason),
        )


def judge(world: World, database: Any, reports: Sequence[StreamReport], fetched: Fetched) -> Verdict:
    """Compare what is stored with what was true.

    Args:
        world: what was true.
        database: what is stored.
        reports: what the streamers said that came to their end.
        fetched: the settled bars by REST.
    """
    market, interval = world.plan.market, world.interval
    stored = database.read(market, interval)
    inside = pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left")
    truth = world.truth.filter(inside)
    violations = list(world.violations)
    allowed = int(world.plan.weight_share * world.pool.limit)
    if max(world.pool.by_minute.values()) > allowed:
        violations.append(f"{max(world.pool.by_minute.values())} weight in a minute, {allowed} allowed")

    lost = sorted(_values(truth).keys() - _values(stored).keys())
    violations += [f"lost: {symbol} {minute}" for symbol, minute in lost]
    _check_fetched(world, truth, fetched, violations)
    _check_coverage(world, truth, stored, violations)
    _check_reports(truth, stored, reports, violations)

    wrong, late = _origins(world, database, market, violations)
    report = match(stored, fetched.bars)
    named = {(row["symbol"], row["timestamp"]): row for row in report.differences.iter_rows(named=True)}
    late_inside = {key for key in late if key[1] in interval}
    violations += [f"a late trade that match did not name: {key}" for key in sorted(late_inside - named.keys())]
    alarms = sorted(named.keys() - late_inside - set(lost))
    violations += [f"match names a bar that is right: {key} {named[key]}" for key in alarms]

    planted, found, more_alarms = _corrupt(world, stored, violations)
    return Verdict(
        seed=world.plan.seed,
        bars=truth.height,
        lost=len(lost),
        duplicated=report.duplicate_left + stored.height - stored.select(KEY).unique().height,
        wrong=wrong,
        planted=len(late_inside) + planted,
        found=len(late_inside & named.keys()) + found,
        false_alarms=len(alarms) + more_alarms,
        revisions=database.revisions(market, interval).height,
        faults=world.injected,
        trace=world.trace_hash,
        virtual_s=world.now_s,
        violations=tuple(violations),
    )


def judge_look(world: World, fetched: Fetched) -> None:
    """A fetch in the middle of everything gives the exchange's own values, and names nothing old that is there."""
    names = {tape.symbol: name for name, tape in world.tape.symbols.items()}
    for (symbol, minute), values in _values(fetched.bars).items():
        if values not in _given(world, names[symbol], minute):
            world.violations.append(f"fetched, and never the exchange's: {symbol} {minute} {values}")
    for symbol, minute in fetched.missing.iter_rows():
        if minute in world.finals[names[symbol]] and minute + 2 * MINUTE_MS <= fetched.until_ms:
            world.violations.append(f"fetched as missing, and the exchange has it: {symbol} {minute}")


def _given(world: World, name: str, minute: int) -> list[Values]:
    """What the exchange says of a bar after its end: at last, and perhaps before its last trades."""
    final = world.finals[name].get(minute)
    if final is None:
        return []
    early = world.early(name, minute)
    return [world.values(final), *([world.values(early)] if early is not None else [])]


def _values(frame: pl.DataFrame) -> dict[Key, Values]:
    return {(row[0], row[1]): row[2:] for row in frame.select("symbol", "timestamp", *VALUES).iter_rows()}


def _check_fetched(world: World, truth: pl.DataFrame, fetched: Fetched, violations: list[str]) -> None:
    """The fetch must give exactly the truth, and name exactly what the exchange lacks."""
    if _values(fetched.bars) != _values(truth) or fetched.bars.height != truth.height:
        violations.append("the settled fetch is not the truth")
    absent = _absent(world, truth)
    named = set(fetched.missing.iter_rows()) | set(fetched.not_listed.iter_rows())
    if named != absent:
        violations.append(f"the settled fetch names {len(named)} bars missing, {len(absent)} are")


def _absent(world: World, truth: pl.DataFrame) -> set[Key]:
    grid = {(tape.symbol, minute) for tape in world.tape.symbols.values() for minute in world.interval.minutes}
    return grid - _values(truth).keys()


def _check_coverage(world: World, truth: pl.DataFrame, stored: pl.DataFrame, violations: list[str]) -> None:
    covered = coverage(stored, [tape.symbol for tape in world.tape.symbols.values()], world.interval)
    lacking = set(covered.missing.iter_rows())
    expected = _absent(world, truth) | (_values(truth).keys() - _values(stored).keys())
    if lacking != expected or covered.duplicate or covered.off_grid or covered.outside:
        violations.append(f"coverage is wrong about what is missing: {covered.counts()}")
    sound = soundness(stored)
    if not sound.is_sound and stored.height:
        violations.append(f"what is stored is not sound: {dict(sound.broken)}")


def _check_reports(
    truth: pl.DataFrame, stored: pl.DataFrame, reports: Sequence[StreamReport], violations: list[str]
) -> None:
    """A report names no bar missing that the exchange has, and its figures add up to what was expected."""
    there = _values(truth).keys()
    for report in reports:
        named = set(report.missing.iter_rows())
        violations += [f"named missing, and the exchange has it: {key}" for key in sorted(named & there)]
        if report.bars_present + len(named) != report.bars_expected:
            violations.append(
                f"{report.bars_present} present and {len(named)} missing are not {report.bars_expected}"
            )
    if reports and reports[-1].bars_present > stored.height:
        violations.append(f"{reports[-1].bars_present} bars reported present, {stored.height} stored")


def _origins(world: World, database: Any, market: Market, violations: list[str]) -> tuple[int, set[Key]]:
    """Where every stored value, first or revised, came from: how many are made up, and which latest ones are late trades."""
    around = world.truth.select(pl.min("timestamp").alias("first"), pl.max("timestamp").alias("last")).row(0)
    whole = type(world.interval)(around[0], around[1] + MINUTE_MS)
    latest = database.read(market, whole)
    names = {tape.symbol: name for name, tape in world.tape.symbols.items()}
    wrong, late = 0, set()
    for frame, is_latest in ((latest, True), (database.revisions(market, whole), False)):
        for (symbol, minute), values in _values(frame).items():
            given = _given(world, names[symbol], minute)
            if values not in given:
                wrong += 1
                violations.append(f"stored, and never the exchange's: {symbol} {minute} {values}")
            elif is_latest and values != given[0]:
                late.add((symbol, minute))
    return wrong, late


def _corrupt(world: World, stored: pl.DataFrame, violations: list[str]) -> tuple[int, int, int]:
    """Damage a copy of the store in several ways: how many bars, how many match named, and how many others it named."""
    chance = random.Random(f"corruption {world.plan.seed}")
    rows = [list(row) for row in stored.select(*KEY, *VALUES).iter_rows()]
    picked = chance.sample(range(len(rows)), min(len(rows) // 2, _CORRUPTIONS))
    touched: set[Key] = set()
    kinds = chance.choices(tuple(_DAMAGES), k=len(picked))
    for kind, index in zip(kinds, picked, strict=True):
        touched |= _DAMAGES[kind](rows, index, chance)
        world.injected[f"planted_{kind}"] += 1
    damaged = pl.DataFrame([row for row in rows if row], schema={name: stored.schema[name] for name in (*KEY, *VALUES)}, orient="row")  # fmt: skip
    damaged = damaged.sample(fraction=1.0, shuffle=True, seed=world.plan.seed)
    named = set(match(damaged, stored).differences.select("symbol", "timestamp").iter_rows())
    violations += [f"a corruption that match did not name: {key}" for key in sorted(touched - named)]
    violations += [f"match names a bar that nobody corrupted: {key}" for key in sorted(named - touched)]
    return len(touched), len(touched & named), len(named - touched)


Rows = list[list[Any]]


def _last_digit(rows: Rows, index: int, chance: random.Random) -> set[Key]:
    column = chance.choice([3, 4, 5, 6, 7, 8, 10, 11])
    rows[index][column] = math.nextafter(rows[index][column], math.inf)
    return {_key(rows[index])}


def _one_trade(rows: Rows, index: int, _chance: random.Random) -> set[Key]:
    rows[index][3 + VALUES.index("trade_count")] += 1
    return {_key(rows[index])}


def _missing(rows: Rows, index: int, _chance: random.Random) -> set[Key]:
    key = _key(rows[index])
    rows[index].clear()
    return {key}


def _not_a_number(rows: Rows, index: int, chance: random.Random) -> set[Key]:
    rows[index][3 + chance.randrange(6)] = math.nan
    return {_key(rows[index])}


def _nothing(rows: Rows, index: int, chance: random.Random) -> set[Key]:
    rows[index][3 + chance.randrange(len(VALUES))] = None
    return {_key(rows[index])}


def _duplicate(rows: Rows, index: int, _chance: random.Random) -> set[Key]:
    rows.append(list(rows[index]))
    return {_key(rows[index])}


def _shifted(rows: Rows, index: int, _chance: random.Random) -> set[Key]:
    """A bar under the label of a minute far away: missing here, and too much there."""
    before = _key(rows[index])
    rows[index][2] += 1440 * MINUTE_MS
    return {before, _key(rows[index])}


def _swapped(rows: Rows, index: int, _chance: random.Random) -> set[Key]:
    """High and low of one bar, which are another bar's if they are the same."""
    row = rows[index]
    row[4], row[5] = (row[5], row[4]) if row[4] != row[5] else (row[4] * 2, row[5])
    return {_key(row)}


_DAMAGES = {
    "last_digit": _last_digit,
    "one_trade": _one_trade,
    "missing": _missing,
    "not_a_number": _not_a_number,
    "null": _nothing,
    "duplicate": _duplicate,
    "shifted": _shifted,
    "swapped": _swapped,
}


def _key(row: list[Any]) -> Key:
    return row[1], row[2]
