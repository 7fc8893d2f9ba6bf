"""The two pages of a verdict: the match of both sides, and the soundness of each.

Lives here: what goes where on a page, and numbers as people read them. Does not: the numbers (findings.py), the layout (the
templates), or files (quality/results.py). A page loads nothing: its style, pictures and drawings are in it, and it has no script.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import polars as pl

from ohlcv_assets.bars import INVARIANTS
from ohlcv_assets.quality import sentences
from ohlcv_assets.quality.completeness import missing_ranges
from ohlcv_assets.quality.diagnosis import diagnose, explained_kinds
from ohlcv_assets.quality.explained import nothing_explained, unexplained
from ohlcv_assets.quality.heat_map import data_uri
from ohlcv_assets.quality.report.charts import chart
from ohlcv_assets.quality.report.findings import DifferingBar, by_symbol, differing_bars
from ohlcv_assets.timestamps import MINUTE_MS, iso

if TYPE_CHECKING:
    from jinja2 import Environment

    from ohlcv_assets.quality.expectations import Validation
    from ohlcv_assets.quality.soundness import Soundness
    from ohlcv_assets.quality.verdict import Verdict

_SHOWN_RANGES = 50
_SHOWN_SYMBOLS = 200
_SHOWN_BARS = 5


def match_page(verdict: Verdict, heat_map: bytes, made_at: datetime, explained: pl.DataFrame | None = None) -> str:
    """The report on a match: what is equal, what is not, where and when; one HTML page.

    Args:
        verdict: both sides of one interval.
        heat_map: `heat_map.heat_map(verdict)`.
        made_at: when, UTC.
        explained: `explained.EXPLAINED_SCHEMA`: minutes that neither side has and that are proven not to be there.
    """
    known = nothing_explained() if explained is None else explained
    lacking = unexplained(verdict.both_lack(), known).height
    bars = differing_bars(verdict)
    symbols = by_symbol(verdict, known)
    spoiled = symbols.filter(pl.col("problems") > 0)
    return (
        templates()
        .get_template("match.html.j2")
        .render(
            **_header(verdict, made_at),
            passed=_is_clean(verdict, lacking),
            headline=_headline(verdict, lacking, known.height),
            sentence=_sentence(verdict, known),
            tiles=_tiles(verdict, lacking, known.height),
            heat_map=data_uri(heat_map),
            looks=explained_kinds(unexplained(diagnose(verdict), known)).to_dicts(),
            cards=[_card(bar) for bar in bars],
            bars_in_all=verdict.match.union - verdict.match.equal,
            bars_shown=sum(bar.minutes for bar in bars),
            missing=[side for side in _missing(verdict, known) if side["bars"]],
            spoiled=spoiled.head(_SHOWN_SYMBOLS).to_dicts(),
            more_spoiled=max(0, spoiled.height - _SHOWN_SYMBOLS),
            clean=symbols.filter(pl.col("problems") == 0).to_dicts(),
            sides=_sides(verdict),
        )
    )


def soundness_page(verdict: Verdict, validations: Mapping[str, Validation], made_at: datetime) -> str:
    """What Great Expectations found on each side, beside what polars found; one HTML page.

    Args:
        verdict: both sides of one interval.
        validations: by side, `streamed` and `fetched`.
        made_at: when, UTC.
    """
    found = {"streamed": verdict.streamed_soundness, "fetched": verdict.fetched_soundness}
    agree = all(validations[side].broken == one.broken_names for side, one in found.items())
    sound = all(one.is_sound for one in found.values())
    broken = sum(one.violations.height for one in found.values())
    return (
        templates()
        .get_template("soundness.html.j2")
        .render(
            **_header(verdict, made_at),
            version=next(iter(validations.values())).version,
            passed=agree and sound,
            headline="Every bar is sound" if sound else f"{broken:,} broken invariant{'s' if broken > 1 else ''}",
            sentence="polars and Great Expectations agree."
            if agree
            else "polars and Great Expectations do not agree.",
            sides=[_validated(side, found[side], validation) for side, validation in validations.items()],
        )
    )


def percent(share: float) -> str:
    """100 % only for exactly all; never rounded up to it."""
    if share == 100.0:
        return "100 %"
    return f"{min(share, 99.9999):.4f} %"


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The pages' templates, which escape whatever is put into them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("ohlcv_assets.quality.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["percent"] = percent
    return found


def _header(verdict: Verdict, made_at: datetime) -> dict[str, Any]:
    interval = verdict.interval
    return {
        "title": f"{verdict.market} {iso(interval.start_ms)}",
        "market": verdict.market.value,
        "interval": f"{iso(interval.start_ms)} to {iso(interval.end_ms)}",
        "symbol_count": len(verdict.symbols),
        "minutes": len(interval.minutes),
        "expected": verdict.streamed_coverage.expected,
        "made_at": f"{made_at:%Y-%m-%d %H:%M:%S} UTC",
    }


def _is_clean(verdict: Verdict, lacking: int) -> bool:
    """Whether both sides have the same, and all that could be had, and nothing else."""
    sides = (verdict.streamed_coverage, verdict.fetched_coverage)
    return verdict.match.is_match and not lacking and not any(side.off_grid + side.outside for side in sides)


def _headline(verdict: Verdict, lacking: int, explained: int) -> str:
    if _is_clean(verdict, lacking):
        there = "every bar that could be had" if explained else "every expected bar"
        return f"100 %: {there} is there, once, and the same on both sides"
    if verdict.match.is_match:
        strange = "some are of no expected minute" if not lacking else f"{lacking:,} are on neither side"
        return f"The bars that are there match, but {strange}"
    return f"{percent(verdict.match.match_pct)} match"


def _sentence(verdict: Verdict, explained: pl.DataFrame) -> str:
    said = sentences.of_match(verdict.match)
    could_not_be = (
        f" {explained.height:,} could not be had: {sentences.of_explained(explained)}." if explained.height else ""
    )
    return f"{said[:1].upper()}{said[1:]}.{could_not_be}"


def _tiles(verdict: Verdict, lacking: int, explained: int) -> list[dict[str, str]]:
    match = verdict.match
    problems = {
        "values differ": match.differing,
        "only streamed": match.only_left,
        "only fetched": match.only_right,
        "there twice": match.duplicated,
        "on neither side": lacking,
    }
    numbers = {"expected": verdict.streamed_coverage.expected, "equal": match.equal}
    if explained:
        numbers["that could not be"] = explained
    tone = "good" if match.is_match else "bad"
    return [
        {"name": "match, of all bars there are", "value": percent(match.match_pct), "tone": tone},
        *({"name": f"bars {name}", "value": f"{count:,}", "tone": ""} for name, count in numbers.items()),
        *(
            {"name": f"bars: {name}", "value": f"{count:,}", "tone": "bad" if count else ""}
            for name, count in problems.items()
        ),
    ]


def _card(bar: DifferingBar) -> dict[str, Any]:
    from markupsafe import Markup

    rows = [
        {
            "what": row["column"] or f"{sentences.KINDS[row['kind']]}: rows",
            "streamed": _shown(row["left"]),
            "fetched": _shown(row["right"]),
            "difference": _difference(row["left"], row["right"]) if row["column"] else "",
        }
        for row in bar.rows
    ]
    more = f", and the {bar.minutes - 1} minutes after it" if bar.minutes > 1 else ""
    # The drawing is made of numbers and of names of columns: nothing that came from outside.
    drawing = Markup(chart(bar))  # noqa: S704
    return {"symbol": bar.symbol, "time": iso(bar.timestamp) + more, "rows": rows, "chart": drawing}


def _shown(value: float | None) -> str:
    """Every digit that a double has; a whole number without its point."""
    if value is None:
        return "null"
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)


def _difference(left: float | None, right: float | None) -> str:
    if left is None or right is None or not math.isfinite(left - right):
        return ""
    share = f" ({100 * (left - right) / right:+.3g} %)" if right else ""
    return f"{left - right:+.6g}{share}"


def _missing(verdict: Verdict, explained: pl.DataFrame) -> list[dict[str, Any]]:
    sides = {"streamed": verdict.streamed_coverage, "fetched": verdict.fetched_coverage}
    return [_missing_side(name, unexplained(found.missing, explained)) for name, found in sides.items()]


def _missing_side(name: str, missing: pl.DataFrame) -> dict[str, Any]:
    ranges = missing_ranges(missing)
    rows = [
        {
            "start": iso(row["start"]),
            "end": iso(row["end"]),
            "minutes": (row["end"] - row["start"]) // MINUTE_MS,
            "symbols": row["example"] + (f" and {row['symbols'] - 1} more" if row["symbols"] > 1 else ""),
            "bars": row["bars"],
        }
        for row in ranges.head(_SHOWN_RANGES).to_dicts()
    ]
    more = max(0, ranges.height - _SHOWN_RANGES)
    return {"name": name, "bars": missing.height, "ranges": rows, "more": more}


def _sides(verdict: Verdict) -> list[dict[str, Any]]:
    sides = {
        "streamed": (verdict.streamed_coverage, verdict.streamed_soundness),
        "fetched": (verdict.fetched_coverage, verdict.fetched_soundness),
    }
    return [
        {"name": name, **found.counts(), "broken": sound.violations.height} for name, (found, sound) in sides.items()
    ]


def _validated(side: str, found: Soundness, validation: Validation) -> dict[str, Any]:
    results = validation.result["results"]
    return {
        "name": side,
        "rows": validation.rows,
        "asked": len(results),
        "met": sum(one["success"] for one in results),
        "same_as": validation.note,
        "invariants": [_invariant(invariant.name, invariant.sentence, found, results) for invariant in INVARIANTS],
        "failed": [_failed(one) for one in results if not one["success"]],
    }


def _invariant(name: str, sentence: str, found: Soundness, results: list[dict[str, Any]]) -> dict[str, Any]:
    asked = [one for one in results if one["expectation_config"]["meta"]["invariant"] == name]
    met = sum(one["success"] for one in asked)
    broken = found.broken[name]
    agree = (met == len(asked)) == (broken == 0)
    verdict = "they do not agree" if not agree else "broken" if broken else "holds"
    tone = "good" if agree and not broken else "bad"
    counts = {"asked": len(asked), "met": met, "broken": broken}
    return {"name": name, "sentence": sentence, "verdict": verdict, "tone": tone, **counts}


def _failed(one: Mapping[str, Any]) -> dict[str, Any]:
    config, result = one["expectation_config"], one["result"]
    columns = [config["kwargs"][name] for name in ("column", "column_A", "column_B") if name in config["kwargs"]]
    bars = [
        {
            "symbol": str(row.get("symbol")),
            "time": iso(int(row["timestamp"])) if row.get("timestamp") is not None else "without a time",
            "value": ", ".join(f"{name} {row.get(name)}" for name in columns),
        }
        for row in result.get("partial_unexpected_index_list", [])[:_SHOWN_BARS]
    ]
    return {
        "sentence": " and ".join(columns),
        "kind": config["type"],
        "invariant": config["meta"]["invariant"],
        "unexpected": result.get("unexpected_count", 0),
        "asked": result.get("element_count", 0),
        "bars": bars,
    }
