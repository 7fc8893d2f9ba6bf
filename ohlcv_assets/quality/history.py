"""History: does the exchange still say of old days what it said when they were downloaded?

Lives here: fetching old days again, comparing them with the lake, and what becomes of a day that the exchange changed.
Does not: the fetch (exchange/fetch.py), the comparison of two frames (match.py), how findings are told
(history_report.py), or when it is done (orchestration/history.py once a week, `ohlcv verify` by hand).

    fetch the day again --same content hash--> unchanged
            | other content
    fetch the symbols that differ once more --another answer--> unsettled: nothing is replaced, ask later
            | the same answer
    are bars gone that the lake holds? --yes--> vanished: nothing is replaced, a person decides (accept)
            | no
    list of differences into the lake, finding into PostgreSQL, then the new version; the old one is kept

The finding is stored before the file is replaced: when the process dies in between, the next one finds the same
difference, and none is ever silent. A day is at most one finding, however many of its bars were restated.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.bars import CAPTURED_SCHEMA
from ohlcv_assets.errors import CorruptFile, DatabaseUnavailable, DayMissing, LakeConflict, OhlcvError, UsageError
from ohlcv_assets.exchange.fetch import fetch_bars
from ohlcv_assets.logs import get_logger
from ohlcv_assets.quality.history_report import DayVerified, Outcome, Verification
from ohlcv_assets.quality.match import match
from ohlcv_assets.storage.bars_file import content_hash
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import DAY_MS, Interval, floor_to, from_ms, iso

if TYPE_CHECKING:
    from ohlcv_assets.clock import Clock
    from ohlcv_assets.exchange.binance import Exchange
    from ohlcv_assets.instruments import Symbol, Universe
    from ohlcv_assets.storage.quality_store import QualityStore

#: Told each day that is done, in order.
OnDay = Callable[[DayVerified], None]
#: Told (day, minutes settled, minutes asked for) while a day is fetched.
OnProgress = Callable[[date, int, int], None]

#: Between the two fetches of a day that differs pass this many exchange seconds: two questions at once are one witness.
_CONFIRM_AFTER_S = 10.0
_log = get_logger()


def last_days(clock: Clock, count: int) -> list[date]:
    """The UTC days that ended last by the exchange's clock, oldest first.

    Args:
        clock: the exchange's.
        count: how many, at least one.

    Raises:
        UsageError: fewer than one.
    """
    if count < 1:
        raise UsageError(f"{count} days are no days to verify", hint="give at least one")
    today = from_ms(floor_to(clock.now_ms(), DAY_MS)).date()
    return [today - timedelta(days=back) for back in range(count, 0, -1)]


async def verify(
    exchange: Exchange,
    lake: Lake,
    universe: Universe,
    days: Sequence[date],
    *,
    run_id: str,
    findings: QualityStore | None = None,
    accept: bool = False,
    on_day: OnDay | None = None,
    on_progress: OnProgress | None = None,
) -> Verification:
    """Fetch old days again, compare them with the lake, and give a day that the exchange changed a new version.

    Args:
        exchange: an open market.
        lake: whose daily files are verified; a day that it does not hold is skipped, and named.
        universe: whose files.
        days: UTC days that are over, in any order.
        run_id: part of the path where differences are kept.
        findings: where findings are stored; None, or one that is away: they are in the lake only.
        accept: replace also a day of which bars are gone, and a damaged file.
        on_day: told each day that is done.
        on_progress: told how far the fetch of a day is.

    Returns:
        One entry a day. An error ends it: the day is `unavailable`, and the days after it are not in it, so that what was
        found before is not lost.

    Raises:
        UsageError: a day that is not over; nothing was done.
    """
    now_ms = exchange.clock.now_ms()
    wanted = sorted(set(days))
    if wanted and Interval.of_day(wanted[-1]).end_ms > now_ms:
        raise UsageError(
            f"{wanted[-1]} is not over: the exchange's clock says {iso(now_ms)}", hint="choose an earlier day"
        )
    verifier = _Verifier(exchange, lake, universe, run_id, findings, accept, on_progress)
    verified: list[DayVerified] = []
    for day in wanted:
        verified.append(await verifier.verified(day))
        if on_day is not None:
            on_day(verified[-1])
        if verified[-1].outcome is Outcome.UNAVAILABLE:
            break
    return Verification(exchange.market, tuple(verified))


@dataclass(frozen=True)
class _Verifier:
    """What every day of a verification has in common; the fields are the arguments of `verify`."""

    exchange: Exchange
    lake: Lake
    universe: Universe
    run_id: str
    findings: QualityStore | None
    accept: bool
    on_progress: OnProgress | None

    @property
    def signature(self) -> Signature:
        return Signature.daily(self.exchange.market, self.universe)

    async def verified(self, day: date) -> DayVerified:
        """What becomes of one day; an error of the exchange or the lake is its outcome."""
        try:
            held = await asyncio.to_thread(self.lake.read_day, self.signature, day)
        except DayMissing:
            return DayVerified(day, Outcome.ABSENT, reason="not in the lake")
        except CorruptFile as error:
            return await self._caught(day, self._mended(DayVerified(day, Outcome.DAMAGED, reason=error.message)))
        except OhlcvError as error:
            return DayVerified(day, Outcome.UNAVAILABLE, reason=error.message)
        return await self._caught(day, self._compared(day, held))

    async def _caught(self, day: date, work: Awaitable[DayVerified]) -> DayVerified:
        try:
            return await work
        except OhlcvError as error:
            return DayVerified(day, Outcome.UNAVAILABLE, reason=error.message)

    async def _compared(self, day: date, held: pl.DataFrame) -> DayVerified:
        """Fetch the day again; other content is looked at closely."""
        listed = [symbol for symbol in self.universe.symbols[self.exchange.market] if symbol in self.exchange.listing]
        asked_for = pl.col("symbol").is_in(listed)
        before = held.filter(asked_for)
        bars = await self._fetched(day, listed)
        found = DayVerified(
            day,
            Outcome.UNCHANGED,
            bars=before.height,
            unlisted=tuple(held.filter(~asked_for)["symbol"].unique().sort()),
            hash_before=content_hash(before),
            hash_after=content_hash(bars),
        )
        if found.hash_before == found.hash_after:
            return found
        return await self._judged(found, held, before, bars)

    async def _judged(
        self, found: DayVerified, held: pl.DataFrame, before: pl.DataFrame, bars: pl.DataFrame
    ) -> DayVerified:
        """What another content means, and what is done about it."""
        report = match(before, bars)
        changes = report.differences.rename({"left": "before", "right": "after"})
        found = replace(
            found,
            changes=changes,
            changed=report.differing,
            appeared=report.only_right,
            vanished=report.only_left,
        )
        if not await self._is_confirmed(found.day, bars, changes["symbol"].unique().sort().to_list()):
            return await self._kept(replace(found, outcome=Outcome.UNSETTLED))
        if found.vanished and not self.accept:
            return await self._kept(replace(found, outcome=Outcome.VANISHED))
        found = await self._kept(replace(found, outcome=Outcome.REPLACED))
        unlisted = held.filter(pl.col("symbol").is_in(found.unlisted)).select(list(CAPTURED_SCHEMA))
        return await self._replaced(found, pl.concat([bars, unlisted]), content_hash(held))

    async def _mended(self, found: DayVerified) -> DayVerified:
        """A damaged file: told, and replaced by what the exchange says when a person wants that."""
        found = await self._kept(found)
        if not self.accept:
            return found
        symbols = list(self.universe.symbols[self.exchange.market])
        bars = await self._fetched(found.day, symbols)
        if not await self._is_confirmed(found.day, bars, symbols):
            return found
        return await self._replaced(replace(found, hash_after=content_hash(bars)), bars, None)

    async def _fetched(self, day: date, symbols: Sequence[Symbol]) -> pl.DataFrame:
        def tell(settled: int, asked: int) -> None:
            if self.on_progress is not None:
                self.on_progress(day, settled, asked)

        return (await fetch_bars(self.exchange, symbols, Interval.of_day(day), on_progress=tell)).bars

    async def _is_confirmed(self, day: date, bars: pl.DataFrame, symbols: Sequence[Symbol]) -> bool:
        """Whether the exchange, asked once more, says the same of these symbols: a broken answer is no history."""
        await self.exchange.clock.sleep(_CONFIRM_AFTER_S)
        again = await self._fetched(day, symbols)
        return content_hash(again) == content_hash(bars.filter(pl.col("symbol").is_in(list(symbols))))

    async def _kept(self, found: DayVerified) -> DayVerified:
        """Store a finding: its differences in the lake, itself in the lake and in PostgreSQL."""
        market = self.exchange.market
        folder = f"qa/history/{market}/{self.universe.path_form}/date={found.day}/run={self.run_id}"
        content = io.BytesIO()
        found.changes.write_parquet(content)
        location = await asyncio.to_thread(self.lake.put, f"{folder}/differences.parquet", content.getvalue())
        found = replace(found, differences=location)
        told = {"outcome": found.outcome, **found.detail()}
        await asyncio.to_thread(self.lake.put, f"{folder}/finding.json", json.dumps(told, indent=2).encode())
        await asyncio.to_thread(self._record, found)
        return found

    def _record(self, found: DayVerified) -> None:
        market = self.exchange.market
        _log.warning(found.sentence, market=market, differences=found.differences)
        if self.findings is None:
            return
        try:
            self.findings.record_finding(
                f"history/{market}/{self.universe.path_form}/{found.day}/{found.digest}",
                market=market,
                kind=f"history_{found.outcome}",
                sentence=found.sentence,
                detail={"outcome": found.outcome, **found.detail()},
                run_id=self.run_id,
            )
        except DatabaseUnavailable as error:
            # It is in the lake, and the check says it.
            _log.warning("the finding is not in PostgreSQL", error=error.message)

    async def _replaced(self, found: DayVerified, bars: pl.DataFrame, expected: str | None) -> DayVerified:
        """Write the new version, unless somebody else wrote one meanwhile."""
        if expected is not None:
            present = await asyncio.to_thread(self.lake.content_hash_of, self.signature, found.day)
            if present != expected:
                raise LakeConflict(
                    f"{found.day} was changed in the lake while it was verified", hint="verify the day again"
                )
        written = await asyncio.to_thread(
            self.lake.write_day,
            self.signature,
            found.day,
            bars,
            replace=True,
            universe_hash=self.universe.content_hash,
        )
        await asyncio.to_thread(self._tell_absent, found)
        return replace(found, replaced_key=written.replaced_key)

    def _tell_absent(self, found: DayVerified) -> None:
        """Which minutes the new version lacks: those of the old one less what appeared, and what vanished."""
        absent = self.lake.read_absent(self.signature, found.day)
        keys = ("symbol", "timestamp")
        appeared = found.changes.filter(pl.col("kind") == "only_right").select(keys)
        proof = json.dumps({"verified": self.run_id, "fetches": 2})
        vanished = found.changes.filter(pl.col("kind") == "only_left").select(
            *keys, cause=pl.lit("unknown"), proof=pl.lit(proof)
        )
        now = pl.concat([absent.join(appeared, on=keys, how="anti"), vanished]).unique(keys, keep="last")
        if now.height != absent.height or not vanished.is_empty():
            self.lake.write_absent(self.signature, found.day, now)
