"""Promises of verified reads: bars that two captures agree about, or the minutes that are not, by name; never a silently shorter answer."""

import io

import polars as pl
import pytest
from psycopg import sql

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import VALUES
from ohlcv_assets.client import verified
from ohlcv_assets.client.verified import RANGES
from ohlcv_assets.errors import CorruptFile, NotVerified, UsageError
from ohlcv_assets.instruments import Market, load_universe
from ohlcv_assets.quality.ledger import UNEXPLAINED, VERIFIED, State
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.storage.quality_store import RANGES_SCHEMA, QualityStore
from ohlcv_assets.storage.signature import SPEAKS_OF, ledger_key
from ohlcv_assets.timestamps import MINUTE_MS, Interval, from_ms
from ohlcv_assets_tests.integration.conftest import BTC, DAY_END_MS, DAYS, ETH, HALT, ONE_DAY, START_MS, at, called

SOL = "SOL/USDT:USDT"


def ranges(*rows):
    """A ledger's rows."""
    return pl.DataFrame(rows, schema=RANGES_SCHEMA, orient="row")


def clean(symbol):
    """A day that two captures agree about, with the exchange's halt in it."""
    return [
        (symbol, START_MS, HALT.start_ms, "confirmed", None, None),
        (symbol, HALT.start_ms, HALT.end_ms, "halted", "exchange_halt", "{}"),
        (symbol, HALT.end_ms, DAY_END_MS, "confirmed", None, None),
    ]


NOT_LISTED = (SOL, START_MS, DAY_END_MS, "not_listed", "not_listed_yet", "{}")


@pytest.fixture
def tell(place):
    """Puts a ledger of a day into the lake; gone again after the test."""
    lake, universe = Lake(place.lake_url), load_universe("v1.0", place.universes)
    keys = []

    def put(*rows, day=DAYS[0], speaks_of=""):
        content = io.BytesIO()
        ranges(*rows).write_parquet(content, metadata={SPEAKS_OF: speaks_of})
        keys.append(ledger_key(Market.FUTURES, universe, day))
        lake.put(keys[-1], content.getvalue())
        return keys[-1]

    yield put
    for key in keys:
        content = io.BytesIO()
        ranges().write_parquet(content)
        lake.put(key, content.getvalue())


def test_the_names_of_the_states_are_the_ledgers_own():
    """The client knows the states without importing what needs a database; they are those of the ledger."""
    assert set(verified.VERIFIED) == {state.value for state in VERIFIED}
    assert set(verified.STATES) == {state.value for state in State}
    assert set(verified.STATES) - set(verified.VERIFIED) - {verified.NOT_LISTED} == {s.value for s in UNEXPLAINED}
    assert RANGES == RANGES_SCHEMA


def test_a_verified_day_is_read_whole(client, tell):
    """Where the ledger knows every minute as confirmed, repaired, halted or not listed, verified bars are all bars."""
    tell(*clean(BTC), *clean(ETH), NOT_LISTED)
    assert client.read(None, **ONE_DAY, verified=True).equals(client.read(None, **ONE_DAY))
    assert client.unverified("futures", "2025-06-01", "2025-06-02").is_empty()


@pytest.mark.parametrize("state", ["streamed_only", "fetched_only", "differing", "missing"])
def test_what_is_not_verified_is_named(client, tell, state):
    """One minute in any other state is an error that names the symbol, the minutes, the state and its cause."""
    tell(
        (BTC, START_MS, at(30), "confirmed", None, None),
        (BTC, at(30), at(33), state, "our_outage", "{}"),
        (BTC, at(33), DAY_END_MS, "repaired", None, None),
    )
    with pytest.raises(NotVerified) as refused:
        client.read(BTC, **ONE_DAY, verified=True)
    assert "3 of 1440 minutes" in refused.value.message
    assert f"{BTC} [2025-06-01T00:30Z, 2025-06-01T00:33Z) {state} (our_outage)" in refused.value.message
    listed = client.unverified("futures", "2025-06-01", "2025-06-02", BTC)
    assert listed.select("start", "end", "state").rows() == [(from_ms(at(30)), from_ms(at(33)), state)]
    inside = client.read(BTC, "2025-06-01T01:00Z", "2025-06-01T02:00Z", market="futures", verified=True)
    assert inside.height == 60


def test_what_is_not_verified_is_left_out_only_when_that_is_asked(client, tell):
    """With on_unverified="drop" exactly the bars of verified minutes remain."""
    tell(
        (BTC, START_MS, at(30), "confirmed", None, None),
        (BTC, at(30), at(33), "differing", None, None),
        (BTC, at(33), DAY_END_MS, "confirmed", None, None),
        (ETH, START_MS, DAY_END_MS, "fetched_only", "our_outage", None),
    )
    read = client.read([BTC, ETH], **ONE_DAY, verified=True, on_unverified="drop", label="start")
    every = client.read(BTC, **ONE_DAY, label="start")
    outside = ~pl.col("interval_start").cast(pl.Int64).is_between(at(30), at(33), closed="left")
    assert read.equals(every.filter(outside))


def test_a_minute_of_which_no_ledger_speaks_is_not_verified(client, tell):
    """A day without a ledger, a symbol that the ledger leaves out and a part of a day are all named as such."""
    tell((BTC, START_MS, at(600), "confirmed", None, None), (BTC, at(700), DAY_END_MS, "confirmed", None, None))
    said = client.unverified("futures", "2025-06-01", "2025-06-03", [BTC, ETH]).select(
        "symbol", "start", "end", "state"
    )
    day = [from_ms(START_MS + number * 1440 * MINUTE_MS) for number in range(3)]
    assert said.rows() == [
        (BTC, from_ms(at(600)), from_ms(at(700)), "no_ledger"),
        (BTC, day[1], day[2], "no_ledger"),
        (ETH, day[0], day[1], "no_ledger"),
        (ETH, day[1], day[2], "no_ledger"),
    ]
    with pytest.raises(NotVerified, match="no_ledger"):
        client.read(BTC, "2025-06-02", "2025-06-03", market="futures", verified=True)


def test_a_last_minute_that_the_end_cuts_is_not_left_out_in_silence(client, tell):
    """An end within a minute: the bar of that minute is part of the answer, and is refused by name where no ledger speaks of it."""
    tell(*clean(BTC))
    asked = {"start": "2025-06-01", "end": "2025-06-02T00:00:30Z", "market": "futures"}
    assert client.read(BTC, **asked).height == 1436
    with pytest.raises(NotVerified) as refused:
        client.read(BTC, **asked, verified=True)
    assert "1 of 1441 minutes" in refused.value.message
    assert f"{BTC} [2025-06-02T00:00Z, 2025-06-02T00:01Z) no_ledger" in refused.value.message
    assert client.unverified("futures", asked["start"], asked["end"], BTC).height == 1
    tell((BTC, DAY_END_MS, DAY_END_MS + 1440 * MINUTE_MS, "confirmed", None, None), day=DAYS[1])
    assert client.read(BTC, **asked, verified=True).height == 1436


def test_a_ledger_of_other_content_is_no_ledger(client, tell):
    """A day that was replaced after its ledger was made is not verified by it; the same content again is."""
    content = client.versions("futures", DAYS[0])["content_hash"][0]
    tell(*clean(BTC), speaks_of=content)
    assert client.read(BTC, **ONE_DAY, verified=True).height == 1435
    tell(*clean(BTC), speaks_of=f"sha256:{'0' * 64}")
    with pytest.raises(NotVerified, match=r"1440 of 1440 minutes .* no_ledger"):
        client.read(BTC, **ONE_DAY, verified=True)


def test_ledgers_are_looked_for_where_there_are_some(client, tell, monkeypatch):
    """A question about a century costs the ledgers that there are, and gives what they say."""
    tell(*clean(BTC))
    here = client.ledger("futures", "2025-06-01", "2025-06-02")
    gets = called(monkeypatch, "get")
    assert client.ledger("futures", "2017-01-01", "2100-01-01").equals(here)
    assert 1 <= len(gets) <= 2


def test_the_state_of_each_bar_can_be_read(client, tell):
    """The column state says what the ledger knows of each bar, and is null where it knows nothing."""
    tell((BTC, START_MS, at(10), "confirmed", None, None), (BTC, at(10), at(20), "repaired", None, None))
    states = client.read([BTC, ETH], "2025-06-01", "2025-06-01T00:30Z", market="futures", columns=["state"])
    assert (
        states.filter(pl.col("symbol") == BTC)["state"].to_list()
        == ["confirmed"] * 10 + ["repaired"] * 10 + [None] * 10
    )
    assert states.filter(pl.col("symbol") == ETH)["state"].is_null().all()


def test_the_ledger_can_be_read(client, tell):
    """The ranges come back clipped to the interval, with times that know their zone."""
    tell(*clean(BTC), *clean(ETH))
    said = client.ledger("futures", "2025-06-01T11:59Z", "2025-06-01T12:10Z", BTC)
    assert said.columns == ["symbol", "start", "end", "state", "cause", "proof"]
    assert said.select("start", "end", "state", "cause").rows() == [
        (from_ms(at(719)), from_ms(HALT.start_ms), "confirmed", None),
        (from_ms(HALT.start_ms), from_ms(HALT.end_ms), "halted", "exchange_halt"),
        (from_ms(HALT.end_ms), from_ms(at(730)), "confirmed", None),
    ]


def test_a_damaged_ledger_is_no_ledger(client, place, tell):
    """A ledger that cannot be read is an error that names it, never taken for silence."""
    key = tell(*clean(BTC))
    Lake(place.lake_url).put(key, b"PAR1 no more")
    with pytest.raises(CorruptFile, match=r"ledger\.parquet"):
        client.read(BTC, **ONE_DAY, verified=True)


def test_the_lake_alone_does_not_know_earlier_ledgers(client):
    """What the ledger said before is kept in the database alone, and a client without one says so."""
    with pytest.raises(UsageError, match="newest ledger"):
        client.ledger("futures", "2025-06-01", "2025-06-02", as_of="2030-01-01")


def test_the_database_knows_a_ledger_that_the_lake_does_not_have(with_database, database):
    """Of days that the lake has no ledger of the database is asked; and it knows what was said before."""
    hour = Interval(START_MS + 2 * 86_400_000, START_MS + 2 * 86_400_000 + 3_600_000)
    store = QualityStore(database)
    said = {"universe": "v1.0", "bars_expected": 60, "run_id": "r"}
    store.record_ledger(
        Market.FUTURES, hour, ranges((BTC, hour.start_ms, hour.end_ms, "missing", "unknown", None)), **said
    )
    with OhlcvClient(with_database) as opened:
        asked = ("futures", from_ms(hour.start_ms), from_ms(hour.end_ms), BTC)
        assert opened.ledger(*asked)["state"].to_list() == ["missing"]
        between = database.fetched(sql.SQL("select clock_timestamp() as now").format())["now"][0]
        store.record_ledger(
            Market.FUTURES, hour, ranges((BTC, hour.start_ms, hour.end_ms, "repaired", None, None)), **said
        )
        assert opened.ledger(*asked)["state"].to_list() == ["repaired"]
        assert opened.ledger(*asked, as_of=between)["state"].to_list() == ["missing"]


def test_verified_bars_can_be_made_longer(client, tell):
    """Verified minutes, resampled: a window with a minute that is not verified is incomplete."""
    tell(
        (BTC, START_MS, at(30), "confirmed", None, None),
        (BTC, at(30), at(31), "differing", None, None),
        (BTC, at(31), DAY_END_MS, "confirmed", None, None),
    )
    asked = {"market": "futures", "verified": True, "on_unverified": "drop", "resample": "1h", "incomplete": "keep"}
    read = client.read(BTC, "2025-06-01", "2025-06-01T03:00Z", **asked)
    assert read.columns == ["interval_end", "symbol", *VALUES, "bars"]
    assert read["bars"].to_list() == [59, 60, 60]
