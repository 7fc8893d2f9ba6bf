"""The QA against planted defects in real days: every one is found and named by its kind, and clean days raise no alarm."""

from pathlib import Path

import polars as pl
import pytest

from ohlcv_assets.bars import KEY
from ohlcv_assets.instruments import Market
from ohlcv_assets.quality.diagnosis import diagnose
from ohlcv_assets.quality.verdict import Verdict, verdict_on
from ohlcv_assets.timestamps import DAY_MS, Interval, floor_to, parse_time
from ohlcv_assets_tests.builders import recorded
from ohlcv_assets_tests.faults.mutations import MUTATIONS, plant

_FUTURES = "klines/um_rest_1m_2025-05-25_2025-06-03_A.parquet"
_SPOT = "klines/spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet"
_DAYS = [
    (_FUTURES, Market.FUTURES, "2025-05-28"),
    (_FUTURES, Market.FUTURES, "2025-06-01"),
    (_SPOT, Market.SPOT, "2021-04-23"),
]


def _day(folder: Path, file: str, market: Market, day: str) -> pl.DataFrame:
    bars = _filled(recorded(folder / file, market))
    start_ms = parse_time(day)
    return bars.filter(pl.col("timestamp").is_between(start_ms, start_ms + DAY_MS, closed="left"))


def _filled(bars: pl.DataFrame) -> pl.DataFrame:
    """With a taker's part, which most recordings lack, so that it can be damaged."""
    return bars.with_columns(taker_buy_volume=pl.col("volume") / 2, taker_buy_quote_volume=pl.col("quote_volume") / 2)


def _judged(streamed: pl.DataFrame, fetched: pl.DataFrame, clean: pl.DataFrame) -> Verdict:
    start_ms = floor_to(int(clean["timestamp"][0]), DAY_MS)
    symbols = clean["symbol"].unique().sort().to_list()
    market = Market.parse(clean["market"][0])
    return verdict_on(streamed, fetched, symbols, market, Interval(start_ms, start_ms + DAY_MS))


@pytest.mark.real_data
@pytest.mark.parametrize("side", ["streamed", "fetched"])
@pytest.mark.parametrize(("file", "market", "day"), _DAYS)
def test_every_planted_defect_is_found_and_named_by_its_kind(
    recorded_data: Path, file: str, market: Market, day: str, side: str
) -> None:
    """Thousands of defects of every kind, on either side of a real day: each is found and named, and nothing else is."""
    clean = _day(recorded_data, file, market, day)
    planted = plant(clean, each=80, seed=20250601)
    verdict = _judged(planted.day, clean, clean) if side == "streamed" else _judged(clean, planted.day, clean)
    named = diagnose(verdict).rename({"kind": "named"})

    found = planted.places.join(named, on=KEY, how="left", nulls_equal=True)
    lost = found.filter(pl.col("named").is_null())
    assert lost.is_empty(), lost
    misnamed = found.filter(~pl.col("kinds").str.split(",").list.contains(pl.col("named")))
    assert misnamed.is_empty(), misnamed
    assert found["mutation"].n_unique() == len(MUTATIONS)
    assert planted.places.height > 1_900

    # A bar that was moved is named where it went and where it lacks: these are the only other names.
    clean_of = _judged(clean, clean, clean)
    others = named.join(planted.places, on=KEY, how="anti", nulls_equal=True)
    others = others.join(diagnose(clean_of), on=KEY, how="anti")
    origins = others.filter(~pl.col("named").is_in(["missing", "other_minute", "duplicate"]))
    assert origins.is_empty(), origins
    assert not verdict.match.is_match


@pytest.mark.real_data
@pytest.mark.parametrize(("file", "market", "day"), _DAYS)
def test_a_clean_real_day_has_nothing_but_the_minutes_that_the_exchange_omitted(
    recorded_data: Path, file: str, market: Market, day: str
) -> None:
    """Two equal captures of a real day: a match, sound, and no diagnosis but of minutes that neither side has."""
    clean = _day(recorded_data, file, market, day)
    verdict = _judged(clean, clean, clean)
    assert verdict.match.is_match
    assert verdict.streamed_soundness.is_sound
    assert set(diagnose(verdict)["kind"]) <= {"missing"}
    assert diagnose(verdict).height == verdict.streamed_coverage.missing.height
