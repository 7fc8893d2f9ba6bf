"""The HTML page of `ohlcv coverage`: the sums, the heat map with what each cell means under the pointer, and every symbol.

Lives here: what goes where. Does not: numbers (coverage_facts.py), levels (coverage_map.py), or the layout (quality/report/). The page
loads nothing: style and cells are in it, and it has no script.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ohlcv_assets.cli.coverage_facts import covered, range_facts, row_of
from ohlcv_assets.cli.coverage_map import COLOURS, Grid, Level, grid
from ohlcv_assets.clock import utc_now
from ohlcv_assets.quality.report.pages import percent, templates
from ohlcv_assets.timestamps import iso

if TYPE_CHECKING:
    from ohlcv_assets.cli.coverage_facts import Coverage

_MOST_COLUMNS = 92
_SHOWN_RANGES = 500


def page(found: Coverage) -> str:
    """The whole page."""
    drawn = grid(found, found.symbols["symbol"].to_list(), _MOST_COLUMNS)
    ranges = [] if found.ranges is None else [range_facts(row) for row in found.ranges.iter_rows(named=True)]
    interval = f"{iso(found.interval.start_ms)} to {iso(found.interval.end_ms)}"
    return (
        templates()
        .get_template("coverage.html.j2")
        .render(
            title=f"{found.market} coverage {interval}",
            market=found.market,
            interval=interval,
            universe=found.universe,
            source=found.source,
            is_blind=found.is_blind,
            made_at=f"{utc_now():%Y-%m-%d %H:%M:%S} UTC",
            is_whole=not found.totals["missing"],
            headline="Every expected bar is there" if not found.totals["missing"] else "Bars are missing",
            sentence=found.sentence(),
            tiles=_tiles(found),
            days=drawn.days,
            heads=_heads(drawn),
            rows=_rows(drawn),
            legend=[(level.value, COLOURS[level][1]) for level in Level],
            symbols=[row_of(row) for row in found.symbols.iter_rows(named=True)],
            ranges=ranges[:_SHOWN_RANGES],
            more_ranges=max(0, len(ranges) - _SHOWN_RANGES),
        )
    )


def _tiles(found: Coverage) -> list[dict[str, str]]:
    sums = found.totals
    shown = row_of({**sums, "symbol": ""})
    tone = "bad" if sums["missing"] else "good"
    return [
        {"name": "of the expected bars are there", "value": covered(sums), "tone": tone},
        {"name": "missing", "value": shown["missing"], "tone": tone},
        {"name": "in the lake", "value": shown["daily"], "tone": ""},
        {"name": "streamed", "value": shown["streamed"], "tone": ""},
    ]


def _heads(drawn: Grid) -> list[dict[str, Any]]:
    """Dates over the map, each over as many columns as it needs."""
    count = len(drawn.firsts)
    step = max(1, -(-count // 9))
    firsts = range(0, count, step)
    cut = [(at, min(step, count - at)) for at in firsts]
    # A date that has less room than the others would be cut off.
    return [{"text": str(drawn.firsts[at]) if wide == step else "", "columns": wide} for at, wide in cut]


def _rows(drawn: Grid) -> list[dict[str, Any]]:
    """A row a symbol: of each cell its level, its character where something is missing, and its sentence."""
    levels, characters = drawn.levels.tolist(), drawn.characters.tolist()
    rows = []
    for row, symbol in enumerate(drawn.symbols):
        expected, missing = drawn.expected[row].tolist(), drawn.missing[row].tolist()
        cells = [
            {
                "level": levels[row][at],
                "text": "" if levels[row][at] <= Level.WHOLE else characters[row][at],
                "title": f"{symbol}, {drawn.name(at)}: {_said(expected[at], missing[at])}",
            }
            for at in range(len(drawn.firsts))
        ]
        rows.append({"symbol": symbol, "cells": cells})
    return rows


def _said(expected: int, missing: int) -> str:
    if not expected:
        return "nothing expected"
    there = expected - missing
    return f"{there:,} of {expected:,} bars, {percent(100 * there / expected)}"
