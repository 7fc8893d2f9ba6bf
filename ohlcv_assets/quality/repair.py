"""Repair: what differs between the two captures is captured once more, and the side that was wrong gets what is right.

Lives here: which bars a comparison leaves in doubt, the captures that decide about them, and the writing of what was decided:
a revision in PostgreSQL, a new version of a file in the lake, and the audit trail before either. Does not: the decision
itself (decisions.py), the two kinds of fetched bars (sides.py), opening anything, or when a repair is made (orchestration/, cli/repair.py).

Nothing is updated in place, and nothing is made up. A store is changed only to what a separate capture brought and one other
capture confirms. Where more bars differ than a repair may concern, nothing is touched: an exchange that restates a day is one
finding, for a person to confirm.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, Channel, violations
from ohlcv_assets.exchange.fetch import CONCURRENCY, fetch_bars, in_parallel
from ohlcv_assets.logs import get_logger
from ohlcv_assets.quality.decisions import DECISIONS_SCHEMA, Decision, changed_bars, decide, digest_of
from ohlcv_assets.quality.sides import DaySide, FetchedSide, HourSide
from ohlcv_assets.quality.verdict import Verdict, compare
from ohlcv_assets.storage.quality_store import QualityStore
from ohlcv_assets.timestamps import Interval, runs_of_minutes

if TYPE_CHECKING:
    from ohlcv_assets.exchange.binance import Exchange
    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.storage.database import Database

__all__ = [
    "EVERY_SYMBOL",
    "DaySide",
    "FetchedSide",
    "HourSide",
    "Limits",
    "RepairReport",
    "concerned",
    "newest",
    "repair",
]

#: Between two captures that must be independent pass this many exchange seconds, and a little more.
_APART_S = 1.05
#: The symbol of a row of the audit trail that concerns all of them.
EVERY_SYMBOL = "*"
_log = get_logger()


@dataclass(frozen=True)
class Limits:
    """How far a repair may go.

    Attributes:
        bars: most bars that it may concern unless somebody confirms.
        confirm: somebody did.
        dry_run: decide, and change nothing.
    """

    bars: int
    confirm: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class RepairReport:
    """What a repair found and did; the numbers are of bars.

    `concerned == repaired + undecided + agreed` unless a confirmation is needed: then nothing was looked at again.

    Attributes:
        market: of all of it.
        partition: the day or hour.
        concerned: not the same on both sides, or on neither.
        repaired: now the same on both sides; in a dry run, those that would be.
        undecided: still different.
        agreed: the same on both sides by the time of the decision.
        needs_confirmation: whether there were too many.
        decisions: `DECISIONS_SCHEMA`.
        left_digest: what the next comparison says of the differences that remain (see `digest_of`); empty for none.
        kept: where former contents of the fetched side are kept.
        requests: questions to the exchange.
    """

    market: Market
    partition: str
    concerned: int
    repaired: int = 0
    undecided: int = 0
    agreed: int = 0
    needs_confirmation: bool = False
    decisions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=DECISIONS_SCHEMA))
    left_digest: str = ""
    kept: tuple[str, ...] = ()
    requests: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to a person."""
        return not (self.undecided or self.needs_confirmation)

    def summary(self) -> dict[str, str | int | bool]:
        """The numbers under the names that metadata and reports use."""
        return {
            "bars_concerned": self.concerned,
            "bars_repaired": self.repaired,
            "bars_undecided": self.undecided,
            "needs_confirmation": self.needs_confirmation,
            "left_digest": self.left_digest,
            "requests": self.requests,
        }


def newest(database: Database, side: FetchedSide, universe: Universe, market: Market) -> Verdict:
    """Compare what is stored now.

    Args:
        database: the streamed side.
        side: the fetched one.
        universe: whose symbols are expected of both.
        market: of all of it.
    """
    fetched, interval = side.read()
    return compare(database, fetched, universe.listed_in(market, interval), market, interval)


async def repair(
    exchange: Exchange,
    database: Database,
    side: FetchedSide,
    verdict: Verdict,
    *,
    limits: Limits,
    run_id: str,
) -> RepairReport:
    """Capture once more what differs, decide, and give the side that was wrong what is right.

    The audit trail is written first, then the stores: a repair that dies between is made again, and said twice.

    Args:
        exchange: the opened market.
        database: the streamed side, and the audit trail.
        side: the fetched side.
        verdict: the newest comparison of the two.
        limits: how far to go.
        run_id: of the run that repairs.

    Raises:
        TransientError: the exchange or a store is away; what was decided before is stored.
    """
    keys = concerned(verdict, side.absent(verdict))
    report = RepairReport(verdict.market, side.name, keys.height)
    if keys.is_empty():
        return replace(report, left_digest=_left_digest(verdict, keys))
    if keys.height > limits.bars and not limits.confirm:
        return await asyncio.to_thread(_left_to_a_person, database, verdict, report, limits, run_id)
    asked_before = exchange.usage.requests
    third, fourth = await _captured_again(exchange, keys, verdict.both_lack().join(keys, on=KEY, how="semi"))
    decisions = decide(keys, verdict.streamed, verdict.fetched, third, fourth)
    kept = []
    if not limits.dry_run:
        kept = await asyncio.to_thread(_apply, database, side, decisions, (third, fourth), run_id)
    report = _reported(report, verdict, keys, decisions)
    return replace(report, kept=tuple(kept), requests=exchange.usage.requests - asked_before)


def concerned(verdict: Verdict, absent: pl.DataFrame) -> pl.DataFrame:
    """The key of every bar that is not the same on both sides, or on neither: `KEY`, sorted, each once.

    Args:
        verdict: the comparison.
        absent: minutes (`symbol, timestamp`) that are known not to be there: that both sides lack them is right.
    """
    lacking = verdict.both_lack().join(absent, on=("symbol", "timestamp"), how="anti")
    return pl.concat([verdict.match.differences.select(KEY), lacking]).unique().sort(KEY)


async def _captured_again(
    exchange: Exchange, keys: pl.DataFrame, lacking: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The third capture of all these bars, and the fourth, later one of those that both sides lack and it has."""
    third = await _fetched(exchange, keys)
    alone = lacking.join(third, on=KEY, how="semi")
    if alone.is_empty():
        return third, third.clear()
    await exchange.clock.sleep(_APART_S)
    return third, await _fetched(exchange, alone)


async def _fetched(exchange: Exchange, keys: pl.DataFrame) -> pl.DataFrame:
    """These bars and no others, as the exchange has them now (`CAPTURED_SCHEMA`); what it lacks or is unsound is not there."""
    runs: dict[Interval, list[str]] = defaultdict(list)
    for (symbol,), minutes in keys.filter(pl.col("symbol").is_in(list(exchange.listing))).group_by(["symbol"]):
        for run in runs_of_minutes(minutes["timestamp"].to_list()):
            runs[run].append(str(symbol))
    frames = [pl.DataFrame(schema=CAPTURED_SCHEMA)]

    async def one(run: Interval, symbols: list[str]) -> None:
        fetched = await fetch_bars(exchange, sorted(symbols), run, concurrency=max(1, CONCURRENCY // len(runs)))
        frames.append(fetched.bars)

    await in_parallel((one(run, symbols) for run, symbols in sorted(runs.items(), key=_start)), CONCURRENCY)
    bars = pl.concat(frames).join(keys, on=KEY, how="semi")
    return bars.join(violations(bars), on=KEY, how="anti").sort(KEY)


def _start(run: tuple[Interval, list[str]]) -> int:
    return run[0].start_ms


def _apply(
    database: Database,
    side: FetchedSide,
    decisions: pl.DataFrame,
    captured: tuple[pl.DataFrame, pl.DataFrame],
    run_id: str,
) -> list[str]:
    """Say what is decided, then do it; returns where former contents are kept."""
    QualityStore(database).record_repairs(decisions.with_columns(run_id=pl.lit(run_id)))
    streamed = changed_bars(decisions, "streamed", *captured)
    if not streamed.is_empty():
        reason = "repair: a third capture equals the fetched bar"
        database.record(streamed, channel=Channel.REST, run_id=run_id, reason=reason)
    fetched = changed_bars(decisions, "fetched", *captured)
    kept = side.rewrite(fetched) if not fetched.is_empty() else []
    _log.info("repaired", partition=side.name, streamed=streamed.height, fetched=fetched.height, kept=kept)
    return kept


def _reported(report: RepairReport, verdict: Verdict, keys: pl.DataFrame, decisions: pl.DataFrame) -> RepairReport:
    undecided = decisions.filter(pl.col("decision") == Decision.UNDECIDED.value)
    repaired = decisions.filter(pl.col("side") != "none").select(KEY).n_unique()
    return replace(
        report,
        repaired=repaired,
        undecided=undecided.height,
        agreed=report.concerned - repaired - undecided.height,
        decisions=decisions,
        left_digest=_left_digest(verdict, keys.join(undecided, on=KEY, how="anti")),
    )


def _left_digest(verdict: Verdict, settled: pl.DataFrame) -> str:
    """What the next comparison will say of the differences, once these bars are the same on both sides."""
    differences, lacking = (
        frame.join(settled, on=KEY, how="anti", nulls_equal=True, maintain_order="left")
        for frame in (verdict.match.differences, verdict.both_lack())
    )
    return digest_of(differences, lacking)


def _left_to_a_person(
    database: Database, verdict: Verdict, report: RepairReport, limits: Limits, run_id: str
) -> RepairReport:
    """One row and one finding, however often the same differences are found; no bar is touched."""
    digest = digest_of(verdict.match.differences, verdict.both_lack())
    sentence = (
        f"{report.concerned:,} bars of {report.market} {report.partition} differ, more than the {limits.bars:,} that are "
        "repaired unattended: nothing was touched. Look at the differences; to repair them all the same, run the repair "
        "again with `confirm: true`, or `ohlcv repair --confirm`"
    )
    row = {
        "market": report.market.value,
        "symbol": EVERY_SYMBOL,
        "timestamp": verdict.interval.start_ms,
        "side": Decision.NEEDS_CONFIRMATION.side,
        "decision": Decision.NEEDS_CONFIRMATION.value,
        "reason": sentence,
        "sources": f'[{{"bars": {report.concerned}, "digest": "{digest}"}}]',
        "before": None,
        "after": None,
    }
    decisions = pl.DataFrame([row], schema=DECISIONS_SCHEMA, orient="row")
    if not limits.dry_run:
        _tell_once(QualityStore(database), report, decisions, digest, run_id)
    return replace(report, needs_confirmation=True, decisions=decisions, left_digest=digest)


def _tell_once(store: QualityStore, report: RepairReport, decisions: pl.DataFrame, digest: str, run_id: str) -> None:
    new = store.record_finding(
        f"repair/{report.market}/{report.partition}/{digest}",
        market=report.market.value,
        kind=Decision.NEEDS_CONFIRMATION.value,
        sentence=str(decisions["reason"][0]),
        detail={"bars_concerned": report.concerned, "partition": report.partition, "differences_digest": digest},
        run_id=run_id,
    )
    if new:
        store.record_repairs(decisions.with_columns(run_id=pl.lit(run_id)))
