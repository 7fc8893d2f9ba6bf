"""Soundness said a second time, by Great Expectations: the same invariants, in words of its own.

Lives here: for every invariant of bars.py the expectations that mean the same, and the run of them over a set of bars. Does
not: the gate, which is polars (soundness.py), or the page that people read (report/). Both must come to the same verdict:
where they do not, one of them is wrong, and the check says so.

Great Expectations takes seconds to import and speaks pandas: it is imported when it is asked for, and nowhere else. In pandas a
missing number and "not a number" are one; so that they stay two, NaN goes there as infinity, and infinity as the largest double.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import polars as pl

from ohlcv_assets.bars import INVARIANTS, KEY, VALUES, conform
from ohlcv_assets.timestamps import MINUTE_MS, parse_time

if TYPE_CHECKING:
    import pandas as pd

    from ohlcv_assets.quality.verdict import Verdict

_PRICES = ("open", "high", "low", "close")
_AMOUNTS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
#: Milliseconds since the last whole minute: a column of the pandas frame that no bar has.
_PAST_MINUTE = "past_minute_ms"
_LARGEST = sys.float_info.max
_SHOWN_BARS = 20


@dataclass(frozen=True)
class Expectation:
    """One expectation of Great Expectations.

    Attributes:
        kind: the name of its class.
        arguments: what the class is given.
        up_to: it is asked of those bars only whose value of this column is at most this, or missing.
    """

    kind: str
    arguments: Mapping[str, Any]
    up_to: tuple[str, float] | None = None


@dataclass(frozen=True)
class Validation:
    """What Great Expectations found in a set of bars.

    Attributes:
        rows: bars looked at.
        broken: the names of the invariants of which some expectation was not met, in the order of bars.py.
        result: its own validation result, as JSON knows it: plain values only.
        version: of Great Expectations.
        note: what a reader must know of how it came about; empty for an ordinary one.
    """

    rows: int
    broken: tuple[str, ...]
    result: Mapping[str, Any]
    version: str
    note: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether there are bars and every expectation was met."""
        return self.rows > 0 and not self.broken


def _present(*columns: str) -> list[Expectation]:
    return [Expectation("ExpectColumnValuesToNotBeNull", {"column": column}) for column in columns]


def _between(*columns: str, **limits: Any) -> list[Expectation]:
    return [Expectation("ExpectColumnValuesToBeBetween", {"column": column, **limits}) for column in columns]


def _at_least(larger: str, smaller: str) -> Expectation:
    """`larger` >= `smaller`, in every bar; one in which one of them is missing does not meet it."""
    arguments = {"column_A": larger, "column_B": smaller, "or_equal": True, "ignore_row_if": "neither"}
    return Expectation("ExpectColumnPairValuesAToBeGreaterThanB", arguments)


def _only(expectations: Sequence[Expectation], column: str, limit: float) -> list[Expectation]:
    return [replace(expectation, up_to=(column, limit)) for expectation in expectations]


#: By the invariant's name. A map expectation passes over what is missing: `_present` says that nothing is.
EXPECTATIONS: Mapping[str, Sequence[Expectation]] = {
    "complete": _present(*KEY, *VALUES),
    "on_the_grid": _present(_PAST_MINUTE) + _between(_PAST_MINUTE, min_value=0, max_value=0),
    "in_milliseconds": _present("timestamp")
    + _between("timestamp", min_value=parse_time("2010-01-01"), max_value=parse_time("2100-01-01")),
    "prices_positive": _present(*_PRICES)
    + _between(*_PRICES, min_value=0, strict_min=True, max_value=_LARGEST, strict_max=True),
    # No price is higher than one that is no number: prices_positive alone names it.
    "high_is_highest": [
        one for name in ("open", "low", "close") for one in _only([_at_least("high", name)], name, _LARGEST)
    ],
    "low_is_lowest": [_at_least(name, "low") for name in ("open", "high", "close")],
    "amounts_not_negative": _present(*_AMOUNTS)
    + _between(*_AMOUNTS, min_value=0, max_value=_LARGEST, strict_max=True),
    "trade_count_not_negative": _present("trade_count") + _between("trade_count", min_value=0),
    "no_trade_no_volume": _only(
        _present("volume", "quote_volume") + _between("volume", "quote_volume", min_value=0, max_value=0),
        "trade_count",
        0,
    ),
    "taker_part_of_whole": [
        _at_least("volume", "taker_buy_volume"),
        _at_least("quote_volume", "taker_buy_quote_volume"),
    ],
}


def validate(frame: pl.DataFrame) -> Validation:
    """Let Great Expectations look at every bar. The first call of a process takes seconds: it imports the library.

    Args:
        frame: rows with the key and value columns of a bar.

    Raises:
        InvalidBars: a key or value column is absent or of another dtype.
    """
    bars = conform(frame)
    result = _run(_as_pandas(bars))
    failed = {one["expectation_config"]["meta"]["invariant"] for one in result["results"] if not one["success"]}
    broken = tuple(one.name for one in INVARIANTS if one.name in failed)
    return Validation(bars.height, broken, result, version("great-expectations"))


def validate_sides(verdict: Verdict) -> dict[str, Validation]:
    """What Great Expectations finds on each side of a verdict, by side.

    Where both sides are equal, bar for bar and value for value, one of them is looked at and stands for both.
    """
    fetched = validate(verdict.fetched)
    if verdict.match.is_match:
        note = "the other side, equal to it in every value, was looked at"
        return {"streamed": replace(fetched, note=note), "fetched": fetched}
    own = verdict.streamed.join(verdict.match.differences.select(KEY).unique(), on=KEY, how="semi", nulls_equal=True)
    if not fetched.broken and 0 < own.height < verdict.streamed.height:
        # The others equal bars that were just found sound.
        note = f"the {own.height:,} bars that are not equal to a fetched one were looked at; the others are equal to sound ones"
        return {"streamed": replace(validate(own), note=note), "fetched": fetched}
    return {"streamed": validate(verdict.streamed), "fetched": fetched}


def _as_pandas(bars: pl.DataFrame) -> pd.DataFrame:
    floats = pl.col(*_PRICES, *_AMOUNTS)
    frame = bars.select(*KEY, *VALUES).with_columns(floats.clip(-_LARGEST, _LARGEST).fill_nan(float("inf")))
    table = frame.to_pandas()
    table[_PAST_MINUTE] = table["timestamp"] % MINUTE_MS
    return table


def _run(table: pd.DataFrame) -> dict[str, Any]:
    # Read when the library is imported; the context is told once more below.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    context: Any = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("bars").add_dataframe_asset("bars")
    definition = gx.ValidationDefinition(
        name="soundness", data=asset.add_batch_definition_whole_dataframe("all"), suite=context.suites.add(_suite())
    )
    found = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": table},
        result_format={
            "result_format": "SUMMARY",
            "partial_unexpected_count": _SHOWN_BARS,
            "unexpected_index_column_names": list(KEY),
        },
    )
    plain: dict[str, Any] = json.loads(json.dumps(found.to_json_dict(), default=str))
    return plain


def _suite() -> Any:
    import great_expectations as gx
    import great_expectations.expectations as kinds

    return gx.ExpectationSuite(
        name="ohlcv_soundness",
        expectations=[
            getattr(kinds, expectation.kind)(
                **expectation.arguments, row_condition=_condition(expectation.up_to), meta={"invariant": name}
            )
            for name, expectations in EXPECTATIONS.items()
            for expectation in expectations
        ],
    )


def _condition(up_to: tuple[str, float] | None) -> Any:
    from great_expectations.expectations.row_conditions import Column

    if up_to is None:
        return None
    column, limit = up_to
    return (Column(column) <= limit) | Column(column).is_null()
