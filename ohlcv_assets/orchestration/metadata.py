"""Numbers under stable names: what the UI plots for every materialization and check.

Lives here: the way from a frame or a report to Dagster metadata. Does not: computing what is right or wrong
(quality/). Keys never change, for a plot is a series of one key over time; the unit stands last in the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.exchange.stream_report import StreamReport
from ohlcv_assets.exchange.stream_status import MinuteStatus
from ohlcv_assets.quality.expectations import Validation
from ohlcv_assets.quality.freshness import Latency
from ohlcv_assets.quality.heat_map import data_uri
from ohlcv_assets.quality.verdict import Verdict
from ohlcv_assets.timestamps import iso

_SHOWN_ROWS = 50
#: Columns of UNIX milliseconds, shown as people read times.
_TIMES = ("timestamp", "start", "end")


def of_bars(bars: pl.DataFrame, *, expected: int) -> dict[str, Any]:
    """How many bars there are of how many expected, of how many symbols, from when to when.

    Args:
        bars: rows with `symbol` and `timestamp`, one a bar.
        expected: symbols x minutes.
    """
    first, last = bars["timestamp"].min(), bars["timestamp"].max()
    return {
        "dagster/row_count": bars.height,
        "bars_expected": expected,
        "bars_present": bars.height,
        "bars_missing": expected - bars.height,
        "coverage_pct": 100.0 * bars.height / expected if expected else 0.0,
        "symbols": bars["symbol"].n_unique(),
        "first_timestamp": iso(first) if isinstance(first, int) else "none",
        "last_timestamp": iso(last) if isinstance(last, int) else "none",
    }


def of_stream(report: StreamReport) -> dict[str, Any]:
    """What a streaming run did: by which channel the bars came, how late, and how often it had to reconnect."""
    late, slow = report.latency_s, report.event_to_commit_ms
    measured = {
        "latency_p50_s": late.p50,
        "latency_p95_s": late.p95,
        "latency_p99_s": late.p99,
        "latency_max_s": late.max,
        "event_to_commit_p50_ms": slow.p50,
        "event_to_commit_p99_ms": slow.p99,
    }
    return {
        "captured_by_websocket": report.by_channel[Channel.WEBSOCKET],
        "captured_by_rest": report.by_channel[Channel.REST],
        "bars_spooled": report.bars_spooled,
        "reconnects": report.reconnects,
        "hand_overs": report.hand_overs,
        "rest_repairs": report.rest_repairs,
        "request_weight": report.weight_used,
        # A run that fetched an hour long past has no latency: nothing rather than a zero.
        **{key: value for key, value in measured.items() if value is not None},
    }


def of_minute(minute: MinuteStatus) -> dict[str, Any]:
    """How a running stream stands after a minute of its interval."""
    totals = minute.totals
    numbers = {
        "minute": iso(minute.minute_ms),
        "bars_expected": minute.expected,
        "bars_present": minute.present,
        "bars_spooled": totals.bars_spooled,
        "bars_due_so_far": totals.bars_due,
        "bars_present_so_far": totals.bars_present,
        "bars_missing_so_far": totals.bars_missing,
        "reconnects": totals.reconnects,
        "rest_repairs": totals.rest_repairs,
        "request_weight": totals.weight_used,
    }
    late = {"latency_p50_s": totals.latency_s.p50, "latency_p99_s": totals.latency_s.p99}
    return {**numbers, **{key: value for key, value in late.items() if value is not None}}


def of_verdict(verdict: Verdict, explained: pl.DataFrame) -> dict[str, Any]:
    """How far two captures agree, and how much of what could be had either of them has.

    Args:
        verdict: both sides, compared.
        explained: `explained.EXPLAINED_SCHEMA`: minutes that are proven not to be there.
    """
    expected, lacking = verdict.streamed_coverage.expected, verdict.both_lack().height
    possible = expected - explained.height
    return {
        **verdict.summary(),
        "bars_present": expected - lacking,
        "bars_missing": lacking - explained.height,
        "bars_explained": explained.height,
        "coverage_pct": 100.0 * (expected - lacking) / possible if possible else 0.0,
    }


def of_validation(validation: Validation) -> dict[str, Any]:
    """How many expectations of Great Expectations were met."""
    counted = validation.result["statistics"]
    return {
        "expectations": counted["evaluated_expectations"],
        "expectations_met": counted["successful_expectations"],
    }


def of_latency(found: Latency) -> dict[str, Any]:
    """How late bars were known, in seconds."""
    return {
        "bars_measured": found.bars,
        "latency_p50_s": found.p50_s,
        "latency_p95_s": found.p95_s,
        "latency_p99_s": found.p99_s,
        "latency_max_s": found.max_s,
    }


def picture(content: bytes, words: str) -> dg.MarkdownMetadataValue:
    """A picture (PNG) that the UI shows; `words` stand where it cannot be seen."""
    return dg.MetadataValue.md(f"![{words}]({data_uri(content)})")


def table(frame: pl.DataFrame) -> dg.TableMetadataValue:
    """The first fifty rows as a table that the UI shows inline; times as people read them."""
    rows = frame.head(_SHOWN_ROWS).to_dicts()
    return dg.MetadataValue.table([dg.TableRecord(_readable(row)) for row in rows], schema=_schema(frame))


def _readable(row: Mapping[str, Any]) -> dict[str, str | float | int | bool | None]:
    return {name: iso(value) if name in _TIMES and value is not None else value for name, value in row.items()}


def _schema(frame: pl.DataFrame) -> dg.TableSchema:
    kinds = {
        name: "float" if dtype.is_float() else "int" if dtype.is_integer() else "string"
        for name, dtype in frame.schema.items()
    }
    kinds.update({name: "string" for name in _TIMES if name in kinds})
    return dg.TableSchema([dg.TableColumn(name, kinds[name]) for name in frame.columns])
