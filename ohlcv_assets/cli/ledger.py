"""`ohlcv ledger`: in which state every expected minute of a day is, and the cause of every gap.

Lives here: options, what is shown, and exit codes. Does not: the states (quality/ledger.py), or where a ledger is kept
(quality/ledger_day.py). On a running platform Dagster's asset records each day; here a person does.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_assets.cli.asked import DayOption, JsonOption, MarketOption, UniverseOption
from ohlcv_assets.settings import Settings, settings

if TYPE_CHECKING:
    from datetime import date

    from ohlcv_assets.client import OhlcvClient
    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.quality.ledger import Ledger

_Now = Annotated[bool, typer.Option("--now", help="Work it out anew from both captures, and store nothing.")]
_Record = Annotated[
    bool,
    typer.Option("--record", help="Work it out anew and keep it in both stores, as the asset does: reads go by it."),
]

_SHOWN = 30


@dataclass(frozen=True)
class _Answer:
    """A ledger, and where it comes from: the record, or now; what comes from now may be on record since then.

    Attributes:
        ledger: the states.
        origin: where it comes from, in words.
        is_recorded: whether it is on record.
        changed_since: of how many minutes a streamed bar became known after it was recorded: these it no longer verifies. None:
            nobody could look.
    """

    ledger: Ledger
    origin: str
    is_recorded: bool
    changed_since: int | None = 0


def ledger(
    market: MarketOption,
    day: DayOption,
    universe: UniverseOption = None,
    now: _Now = False,
    record: _Record = False,
    as_json: JsonOption = False,
) -> None:
    """Say in which state every expected minute of a UTC day is; the counts sum to symbols times minutes.

    What was recorded last is shown; of a day without a record, and with --now or --record, the ledger is worked out anew.
    Without the database it is shown, too, but not whether streamed bars changed since (JSON: null).

    \b
    Examples:
      ohlcv ledger --market spot --day 2025-06-01
      ohlcv ledger --market spot --day 2025-06-01 --record
      ohlcv ledger --market futures --day 2025-06-01 --json | jq '.counts'

    Exit code: 0 every minute is confirmed or explained; 1 a minute is missing, differs or is on one side only, bars changed after
    what is on record, or the day was never downloaded; 2 the question cannot be meant; 3 database or lake are unavailable.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.cli.asked import day_of, universe_of
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.instruments import Market

    if now and record:
        raise UsageError("--now stores nothing, and --record does", hint="give one of them")
    configured, chosen, wanted = settings(), Market.parse(market), day_of(day)
    released = universe_of(configured, universe, chosen)
    stored = None if now or record else _recorded(configured, chosen, wanted, released)
    answer = stored or _worked_out(configured, chosen, wanted, released, record=record)
    if as_json:
        _tell(answer)
    else:
        _show(answer)
    raise typer.Exit(1 if answer.ledger.unexplained() or answer.changed_since else 0)


def _recorded(configured: Settings, market: Market, day: date, universe: Universe) -> _Answer | None:
    """The newest ledger on record that speaks of the whole day; None where there is none."""
    import polars as pl

    from ohlcv_assets.cli.stores import open_client
    from ohlcv_assets.quality.ledger import Ledger
    from ohlcv_assets.timestamps import DAY_MS, Interval, iso

    interval = Interval.of_day(day)
    with open_client(configured.model_copy(update={"universe": universe.version})) as client:
        asked = (market, iso(interval.start_ms), iso(interval.end_ms))
        ranges = client.ledger(*asked).with_columns(pl.col("start", "end").dt.epoch("ms"))
        symbols = tuple(ranges["symbol"].unique().sort())
        if ranges.is_empty() or (ranges["end"] - ranges["start"]).sum() < len(symbols) * DAY_MS:
            return None
        changed = _changed_since(client, asked)
    # What is on record are ranges: trades outside of a listing were told when they were found.
    untold = pl.DataFrame(schema={"symbol": pl.String, "timestamp": pl.Int64})
    found = Ledger(market, interval, symbols, ranges, untold)
    return _Answer(found, "as recorded last", is_recorded=True, changed_since=changed)


def _changed_since(client: OhlcvClient, asked: tuple[Market, str, str]) -> int | None:
    """How many minutes changed since the ledger; None, with the reason on standard error, where no database can say."""
    import polars as pl

    from ohlcv_assets.client.verified import CHANGED
    from ohlcv_assets.errors import DatabaseUnavailable, Refused

    # The ledger is in the lake: to show it nobody needs PostgreSQL.
    if not client.has_database:
        _say_unknown("there is no database")
        return None
    try:
        doubtful = client.unverified(*asked, source="streamed")
    except (DatabaseUnavailable, Refused) as error:
        _say_unknown(error.message)
        return None
    later = doubtful.filter(pl.col("state") == CHANGED)
    return sum(int((end - start).total_seconds()) // 60 for start, end in later.select("start", "end").iter_rows())


def _say_unknown(reason: str) -> None:
    print(f"whether streamed bars changed since is not known: {reason}", file=sys.stderr)


def _worked_out(configured: Settings, market: Market, day: date, universe: Universe, *, record: bool) -> _Answer:
    """The ledger of what both stores hold now, kept in both when that is asked for."""
    from ohlcv_assets.capture import known_empty
    from ohlcv_assets.cli.stores import open_database, open_lake
    from ohlcv_assets.errors import DayMissing, NoBars
    from ohlcv_assets.quality.ledger_day import keep_ledger, ledger_of_day
    from ohlcv_assets.storage.lake import Signature

    lake, signature = open_lake(configured), Signature.daily(market, universe)
    try:
        # What was never downloaded is an error here, and needs no database to be one.
        lake.content_hash_of(signature, day)
    except DayMissing as error:
        _insist_on_past(configured, market, day)
        if known_empty(lake, signature, universe.symbols[market], day):
            raise NoBars(
                f"no {market} symbol of {universe.version} was listed on {day}", hint="choose a later day"
            ) from error
        raise
    with open_database(configured) as database:
        found = ledger_of_day(database, lake, universe, market, day)
        if not record:
            return _Answer(found, "worked out now, not recorded", is_recorded=False)
        version, _ = keep_ledger(database, lake, universe, found, run_id=f"ledger-{os.getpid()}-{day}")
        return _Answer(found, f"recorded now as version {version}", is_recorded=True)


def _insist_on_past(configured: Settings, market: Market, day: date) -> None:
    """A day that is not over cannot be downloaded: that is why it is not there."""
    from ohlcv_assets.cli.asked import now_of
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.timestamps import Interval

    now = now_of(configured, market)
    if Interval.of_day(day).end_ms > now.moment_ms:
        raise UsageError(f"{day} is not over: {now}", hint="choose an earlier day")


def _tell(answer: _Answer) -> None:
    from ohlcv_assets.cli.asked import print_json

    found = answer.ledger
    print_json(
        {
            "market": found.market,
            "interval": str(found.interval),
            "is_recorded": answer.is_recorded,
            "symbols": len(found.symbols),
            "bars_expected": found.expected,
            "bars_unexplained": found.unexplained(),
            "bars_changed_since": answer.changed_since,
            "counts": {state.value: bars for state, bars in found.counts().items()},
            "ranges": [_range(row) for row in found.gaps().iter_rows(named=True)],
        }
    )


def _range(row: dict[str, Any]) -> dict[str, Any]:
    """A range as people read it: its times as text, how many minutes it has, its proof unpacked."""
    from ohlcv_assets.timestamps import MINUTE_MS, iso

    return {
        "symbol": row["symbol"],
        "start": iso(row["start"]),
        "end": iso(row["end"]),
        "minutes": (row["end"] - row["start"]) // MINUTE_MS,
        "state": row["state"],
        "cause": row["cause"],
        "proof": json.loads(row["proof"]) if row["proof"] else None,
    }


def _show(answer: _Answer) -> None:
    from ohlcv_assets.cli.universe_tables import show_table

    found = answer.ledger
    print(f"{found.market} {found.interval}, {len(found.symbols)} symbols, {answer.origin}")
    counts = [
        (state.value, f"{bars:,}", _share(bars, found.expected)) for state, bars in found.counts().items() if bars
    ]
    show_table(("state", "bars", "share"), [*counts, ("all", f"{found.expected:,}", "")])
    gaps = found.gaps()
    if not gaps.is_empty():
        rows = [_range(row) for row in gaps.head(_SHOWN).iter_rows(named=True)]
        show_table(tuple(rows[0])[:-1], [[str(v or "") for v in list(row.values())[:-1]] for row in rows])
    if gaps.height > _SHOWN:
        print(f"and {gaps.height - _SHOWN:,} more ranges: --json has them all, each with its proof")
    day = f"--market {found.market} --day {str(found.interval)[1:11]}"
    if answer.changed_since:
        print(f"{answer.changed_since:,} streamed bars changed since: what is shown above no longer verifies them")
        print(f"try: ohlcv ledger {day} --record")
    if found.unexplained():
        print(f"try: ohlcv repair {day}")


def _share(bars: int, expected: int) -> str:
    return f"{100 * bars / expected:.4f} %"
