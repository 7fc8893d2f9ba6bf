"""Promises about what became known when: versions, the difference of two moments, repairs and findings, read like the bars."""

from datetime import timedelta, timezone
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import pytest

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import Channel
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import NaiveTime, NoBars, UsageError
from ohlcv_assets.instruments import Market, load_universe
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.storage.quality_store import REPAIRS_SCHEMA, QualityStore
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, from_ms
from ohlcv_assets_tests.builders import corrupted
from ohlcv_assets_tests.integration.conftest import BTC, DAYS, ETH, START_MS, expected, of_day

DAY = {"start": "2025-06-01", "end": "2025-06-02", "market": "futures"}
SPAN = ("futures", "2025-06-01", "2025-06-03")


@pytest.fixture
def restated(place, truth, tmp_path):
    """A client of a lake whose first day was replaced by one with another high, and when that was not yet so."""
    own = place.model_copy(update={"lake": str(tmp_path / "lake")})
    lake = Lake(own.lake_url)
    signature = Signature.daily(Market.FUTURES, load_universe("v1.0", own.universes))
    for day in DAYS:
        lake.write_day(signature, day, of_day(truth, day))
    between = utc_now()
    first = of_day(truth, DAYS[0])
    lake.write_day(signature, DAYS[0], corrupted(first, 7, "high", first["high"][7] + 1), replace=True)
    return OhlcvClient(own), between


def test_a_replaced_day_is_read_as_it_was(restated, truth):
    """Before the exchange restated the day its old values are read, afterwards the new ones, of the other day the same."""
    client, between = restated
    old = client.read(None, **(DAY | {"end": "2025-06-03"}), as_of=between)
    new = client.read(None, **(DAY | {"end": "2025-06-03"}))
    stored = expected(truth, [BTC, ETH], Interval(START_MS, START_MS + 2 * DAY_MS))
    assert old["high"].to_list() == stored["high"].to_list()
    assert (new["high"] - old["high"]).abs().sum() == pytest.approx(1)
    assert new["high"][7] == old["high"][7] + 1
    assert new.equals(client.read(None, **(DAY | {"end": "2025-06-03"}), as_of=utc_now()))
    one = client.read(BTC, "2025-06-01", "2025-06-01T00:10Z", market="futures", as_of=between, columns=["high"])
    assert one["high"].to_list() == old["high"].to_list()[:10]


@pytest.mark.parametrize(
    "elsewhere",
    [
        lambda moment: moment.astimezone(timezone(timedelta(hours=2))).isoformat(),
        lambda moment: moment.astimezone(ZoneInfo("Asia/Kathmandu")),
        lambda moment: pd.Timestamp(moment).tz_convert("America/New_York"),
        lambda moment: pd.Timestamp(moment).tz_convert("UTC"),
    ],
    ids=["text with an offset", "ZoneInfo", "pandas in New York", "pandas in UTC"],
)
def test_a_moment_of_knowledge_is_the_same_in_every_zone(restated, elsewhere):
    """Also where a day was replaced since, which is where it is compared with the stored times, and for differences."""
    client, between = restated
    told = elsewhere(between)
    asked = DAY | {"end": "2025-06-03"}
    assert client.read(None, **asked, as_of=told).equals(client.read(None, **asked, as_of=between))
    assert client.changes(*SPAN, since=told).equals(client.changes(*SPAN, since=between))
    assert client.changes(*SPAN, since="2025-06-05", until=told)["kind"].unique().to_list() == ["new"]


def test_the_versions_of_a_day_are_listed(restated):
    """Each content that a day had, since when it was known, which one counts, and where it lies."""
    client, between = restated
    told = client.versions("futures", "2025-06-01")
    assert told["current"].to_list() == [False, True]
    assert told["known_at"][0] < between < told["known_at"][1]
    assert told["content_hash"].n_unique() == 2
    assert client.versions("futures", DAYS[1]).height == 1


def test_the_difference_of_two_moments_of_the_lake(restated, truth):
    """What became known in between is listed by bar and column, with before and after; a moment earlier: everything is new."""
    client, between = restated
    told = client.changes(*SPAN, since=between)
    assert told.select("interval_start", "symbol", "kind", "column", "before").rows() == [
        (from_ms(START_MS + 7 * MINUTE_MS), BTC, "changed", "high", truth["high"][7])
    ]
    assert told["after"][0] == truth["high"][7] + 1
    assert (told["interval_end"] - told["interval_start"]).unique().to_list() == [timedelta(minutes=1)]
    assert client.changes(*SPAN, ETH, since=between).is_empty()
    assert client.changes(*SPAN, since=utc_now() - timedelta(microseconds=1)).is_empty()
    everything = client.changes(*SPAN, since="2025-06-05")
    assert everything["kind"].unique().to_list() == ["new"]
    assert everything.height == truth.height


def test_the_difference_of_two_moments_of_the_database(streamed, database, truth):
    """A revision is told with its reason; what was there before is not."""
    before = utc_now()
    first = expected(truth, [ETH], Interval(START_MS, START_MS + 5 * MINUTE_MS))
    database.record(corrupted(first, 2, "close", first["high"][2]), channel=Channel.REST, run_id="b", reason="repair")
    told = streamed.changes(*SPAN, since=before, source="streamed")
    assert told.select("symbol", "kind", "column", "before", "after", "reason").rows() == [
        (ETH, "changed", "close", first["close"][2], first["high"][2], "repair")
    ]
    assert told["interval_start"].to_list() == [from_ms(START_MS + 2 * MINUTE_MS)]


@pytest.mark.parametrize(
    "asked", [{"since": "2025-06-05", "until": "2025-06-05"}, {"since": "2025-06-05", "source": "stitched"}]
)
def test_a_difference_that_cannot_be_meant_is_refused(client, asked):
    """Two moments the wrong way round, and a source that learns twice, are errors that say so."""
    with pytest.raises(UsageError):
        client.changes(*SPAN, **asked)
    with pytest.raises(NaiveTime):
        client.changes(*SPAN, since="2025-06-05T00:00")


def test_repairs_and_findings_are_read(with_database, database):
    """What was decided about bars, and what was told to people, with times that know their zone."""
    decided = ("futures", ETH, START_MS, "streamed", "streamed_was_wrong", "two of three", "[]", "{}", "{}", "r")
    rows = [decided, ("futures", BTC, START_MS + DAY_MS, *decided[3:])]
    QualityStore(database).record_repairs(pl.DataFrame(rows, schema=REPAIRS_SCHEMA, orient="row"))
    told = {"market": "futures", "kind": "check", "sentence": "one bar differs", "detail": {}, "run_id": "r"}
    QualityStore(database).record_finding("f", **told)
    with OhlcvClient(with_database) as opened:
        repaired = opened.repairs(*SPAN, ETH)
        assert repaired.select("interval_start", "market", "symbol", "decision").rows() == [
            (from_ms(START_MS), "futures", ETH, "streamed_was_wrong")
        ]
        assert opened.repairs(*SPAN).height == 2
        assert opened.findings()["sentence"].to_list() == ["one bar differs"]
        assert opened.findings(utc_now()).is_empty()


def test_the_lake_alone_knows_no_repairs(client):
    """Without a database the client says where repairs and findings are kept, and starts no server to look."""
    with pytest.raises(NoBars, match="no database"):
        client.repairs(*SPAN)
    with pytest.raises(NoBars, match="no database"):
        client.findings()
