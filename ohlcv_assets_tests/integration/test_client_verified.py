"""Promises of verified reads: bars that two captures agree about, or the minutes that are not, by name; never a silently shorter answer."""

import io
from typing import NamedTuple

import polars as pl
import pytest
from psycopg import sql

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import VALUES, Channel
from ohlcv_assets.client import minutes, verified
from ohlcv_assets.client.verified import RANGES
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import CorruptFile, LakeConflict, NotVerified, UsageError
from ohlcv_assets.instruments import Market, Symbol, Universe, load_universe, release_universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.quality.ledger import UNEXPLAINED, VERIFIED, State
from ohlcv_assets.quality.ledger_day import keep_ledger, ledger_of_day
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.storage.quality_store import RANGES_SCHEMA, QualityStore
from ohlcv_assets.storage.signature import SPEAKS_OF, Signature, ledger_key
from ohlcv_assets.timestamps import MINUTE_MS, Interval, from_ms
from ohlcv_assets_tests.builders import corrupted
from ohlcv_assets_tests.integration.conftest import BTC, DAYS, ETH, HALT, START_MS, of_day

SOL = "SOL/USDT:USDT"
ONE_DAY = {"start": "2025-06-01", "end": "2025-06-02", "market": "futures"}
DAY_END_MS = START_MS + 1440 * MINUTE_MS


def at(minute):
    """The start of a minute of the first day."""
    return START_MS + minute * MINUTE_MS


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


def called(monkeypatch, name):
    """A list that gets an entry for each call of a method of the lake."""
    calls, method = [], getattr(Lake, name)

    def noted(*arguments, **named):
        calls.append(arguments[1:])
        return method(*arguments, **named)

    monkeypatch.setattr(Lake, name, noted)
    return calls


def test_ledgers_are_looked_for_where_there_are_some(client, tell, monkeypatch):
    """A question about a century costs the ledgers that there are, and gives what they say."""
    tell(*clean(BTC))
    here = client.ledger("futures", "2025-06-01", "2025-06-02")
    gets = called(monkeypatch, "get")
    assert client.ledger("futures", "2017-01-01", "2100-01-01").equals(here)
    assert 1 <= len(gets) <= 2


@pytest.mark.parametrize("method", ["coverage", "missing_ranges", "unverified"])
def test_the_lake_is_listed_once_a_question(compared, monkeypatch, method):
    """However many parts the bars are read in: its days are looked up once, and each day's ledger too."""
    own, noon = compared.settings, ("futures", "2025-06-01T12:00Z", "2025-06-03")
    with OhlcvClient(own) as whole:
        expected = getattr(whole, method)(*noon, **({} if method == "coverage" else {"source": "stitched"}))
    monkeypatch.setattr(minutes, "_MOST_BARS", 1)
    lists, gets = called(monkeypatch, "days"), called(monkeypatch, "get")
    with OhlcvClient(own) as parted:
        found = getattr(parted, method)(*noon, **({} if method == "coverage" else {"source": "stitched"}))
    assert found.equals(expected)
    assert len(lists) == 1
    assert len(gets) == len(set(gets))


class Compared(NamedTuple):
    """A day that both stores hold, compared, with its ledger kept as the platform keeps it."""

    settings: Settings
    database: Database
    lake: Lake
    bars: pl.DataFrame

    def restated(self):
        """The lake takes other content of the day."""
        universe = load_universe("v1.0", self.settings.universes)
        content = corrupted(self.bars, 7, "high", self.bars["high"][7] + 1)
        self.lake.write_day(Signature.daily(Market.FUTURES, universe), DAYS[0], content, replace=True)


HALF_A_DAY = {"start": "2025-06-01", "end": "2025-06-01T12:00Z", "market": "futures"}


@pytest.fixture
def compared(with_database, database, truth, tmp_path):
    """The first day of both symbols, streamed and fetched, and its ledger."""
    own = with_database.model_copy(update={"lake": str(tmp_path)})
    lake, universe = Lake(own.lake_url), load_universe("v1.0", own.universes)
    bars_of_day = of_day(truth, DAYS[0])
    lake.write_day(Signature.daily(Market.FUTURES, universe), DAYS[0], bars_of_day)
    database.record(bars_of_day, channel=Channel.WEBSOCKET, run_id="a")
    found = ledger_of_day(database, lake, universe, Market.FUTURES, DAYS[0])
    keep_ledger(database, lake, universe, found, run_id="r")
    return Compared(own, database, lake, bars_of_day)


@pytest.mark.parametrize("source", ["daily", "streamed", "stitched"])
def test_what_was_compared_is_verified_from_either_store(compared, source):
    """Until something changes, each source gives the verified bars."""
    with OhlcvClient(compared.settings) as opened:
        assert opened.read([BTC, ETH], **HALF_A_DAY, verified=True, source=source).height == 1440


def test_the_platforms_ledger_ends_with_the_content_that_it_speaks_of(compared):
    """A ledger as the platform keeps it verifies the day; once the lake takes other content of the day, it no longer does."""
    with OhlcvClient(compared.settings) as opened:
        assert opened.read(BTC, **HALF_A_DAY, verified=True).height == 720
        compared.restated()
        with pytest.raises(NotVerified, match=r"720 of 720 minutes .* no_ledger"):
            opened.read(BTC, **HALF_A_DAY, verified=True)


@pytest.mark.parametrize("source", ["daily", "stitched"])
def test_a_replaced_day_is_not_verified_as_of_now_either(compared, source):
    """The same question with a moment of knowledge has the same answer: the ledger has not seen what the day is now."""
    before = utc_now()
    compared.restated()
    with OhlcvClient(compared.settings) as opened:
        for moment in (utc_now(), "2035-01-01"):
            with pytest.raises(NotVerified, match=r"720 of 720 minutes .* changed_since"):
                opened.read(BTC, **HALF_A_DAY, verified=True, source=source, as_of=moment)
        assert opened.read(BTC, **HALF_A_DAY, verified=True, source=source, as_of=before).height == 720


def test_a_revision_after_the_ledger_is_not_verified(compared):
    """What became known of a streamed bar later is told, and refused where verified bars are asked for; the others stay verified."""
    later = compared.bars.filter(pl.col("symbol") == BTC).head(3).with_columns(pl.col("high") + 1)
    compared.database.record(later, channel=Channel.REST, run_id="b", reason="backfill")
    asked = {**HALF_A_DAY, "source": "streamed"}
    with OhlcvClient(compared.settings) as opened:
        with pytest.raises(NotVerified, match=r"3 of 720 minutes .* changed_since"):
            opened.read(BTC, **asked, verified=True)
        assert opened.read(BTC, **asked, verified=True, on_unverified="drop").height == 717
        assert (
            opened.read(BTC, **asked, columns=["state"])["state"].to_list()
            == ["changed_since"] * 3 + ["confirmed"] * 717
        )
        assert opened.read(BTC, **HALF_A_DAY, verified=True).height == 720


@pytest.mark.parametrize("source", ["daily", "streamed", "stitched"])
def test_what_a_verified_read_refuses_is_listed(compared, source):
    """unverified() of a source names the minutes that its read refuses, each once, and dropping them leaves what is not named."""
    later = compared.bars.filter(pl.col("symbol") == BTC).head(3).with_columns(pl.col("high") + 1)
    compared.database.record(later, channel=Channel.REST, run_id="b", reason="backfill")
    with OhlcvClient(compared.settings) as opened:
        listed = opened.unverified("futures", "2025-06-01", "2025-06-01T12:00Z", BTC, source=source)
        read = opened.read(BTC, **HALF_A_DAY, source=source, verified=True, on_unverified="drop")
        if source != "streamed":
            assert listed.is_empty()
            assert read.height == 720
            return
        assert listed.rows() == [(BTC, from_ms(at(0)), from_ms(at(3)), "changed_since", None, None)]
        assert read.height == 717
        with pytest.raises(NotVerified) as refused:
            opened.read(BTC, **HALF_A_DAY, source=source, verified=True)
        assert "ohlcv ledger --market futures --day 2025-06-01 --record" in (refused.value.hint or "")
        universe = load_universe("v1.0", compared.settings.universes)
        anew = ledger_of_day(compared.database, compared.lake, universe, Market.FUTURES, DAYS[0])
        keep_ledger(compared.database, compared.lake, universe, anew, run_id="r")
        states = set(opened.unverified("futures", "2025-06-01", "2025-06-01T12:00Z", BTC, source=source)["state"])
        assert states == {"differing"}


def test_a_minute_in_doubt_that_changed_since_is_named_once(compared):
    """What differed when it was compared, and has changed since, is one minute that is not verified."""
    universe = load_universe("v1.0", compared.settings.universes)
    two = compared.bars.filter(pl.col("symbol") == BTC).head(2)
    for high in (1, 2):
        compared.database.record(two.with_columns(pl.col("high") + high), channel=Channel.REST, run_id="b")
        if high == 1:
            found = ledger_of_day(compared.database, compared.lake, universe, Market.FUTURES, DAYS[0])
            keep_ledger(compared.database, compared.lake, universe, found, run_id="r")
    with OhlcvClient(compared.settings) as opened:
        with pytest.raises(NotVerified, match="2 of 720 minutes"):
            opened.read(BTC, **HALF_A_DAY, verified=True, source="streamed")
        listed = opened.unverified("futures", "2025-06-01", "2025-06-01T12:00Z", BTC, source="streamed")
    assert listed.select("end", "state").rows() == [(from_ms(at(2)), "differing")]


def test_a_minute_without_a_listing_is_not_counted(place, tmp_path):
    """A symbol that was listed at noon has half a day of minutes that could be verified, and no more are named."""
    noon = START_MS + 720 * MINUTE_MS
    listed = {Symbol(BTC): ListingTimes("BTCUSDT", (Span(noon, None, "told"),))}
    release_universe(Universe.of("v1.0", {Market.FUTURES: [BTC, ETH]}, listings=listed), tmp_path)
    with OhlcvClient(place.model_copy(update={"universes": tmp_path})) as opened:
        with pytest.raises(NotVerified, match="720 of 720 minutes"):
            opened.read(BTC, **ONE_DAY, verified=True)
        named = opened.unverified("futures", "2025-06-01", "2025-06-02", BTC)
    assert named.select("start", "end").rows() == [(from_ms(noon), from_ms(DAY_END_MS))]


def test_the_ledger_of_another_universe_verifies_nothing(compared):
    """The database keeps the ledgers of every universe; only those of the client's own are of its bars."""
    folder = compared.settings.universes
    release_universe(Universe.of("v2.0", {Market.FUTURES: [BTC, ETH]}), folder)
    own = compared.settings.model_copy(update={"universe": "v2.0"})
    signature = Signature.daily(Market.FUTURES, load_universe("v2.0", folder))
    compared.lake.write_day(signature, DAYS[0], corrupted(compared.bars, 7, "high", compared.bars["high"][7] + 1))
    with OhlcvClient(own) as opened, pytest.raises(NotVerified, match=r"720 of 720 minutes .* no_ledger"):
        opened.read(BTC, **HALF_A_DAY, verified=True)


def test_a_day_that_is_replaced_while_its_ledger_is_made_gets_none(compared):
    """A ledger is kept only if the day still is what it compared; nothing is stored of one that is not."""
    universe = load_universe("v1.0", compared.settings.universes)
    found = ledger_of_day(compared.database, compared.lake, universe, Market.FUTURES, DAYS[0])
    compared.restated()
    with pytest.raises(LakeConflict, match="replaced"):
        keep_ledger(compared.database, compared.lake, universe, found, run_id="r")
    with OhlcvClient(compared.settings) as opened, pytest.raises(NotVerified):
        opened.read(BTC, **HALF_A_DAY, verified=True)


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
