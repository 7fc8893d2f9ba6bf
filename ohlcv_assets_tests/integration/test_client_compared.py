"""Promises of verified reads about days that the platform itself compared: what is replaced, revised or told by another universe after it."""

from typing import NamedTuple

import polars as pl
import pytest

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import Channel
from ohlcv_assets.client import minutes
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import LakeConflict, NotVerified
from ohlcv_assets.instruments import Market, Symbol, Universe, load_universe, release_universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.quality.ledger_day import keep_ledger, ledger_of_day
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.storage.signature import Signature
from ohlcv_assets.timestamps import MINUTE_MS, from_ms
from ohlcv_assets_tests.builders import corrupted
from ohlcv_assets_tests.integration.conftest import BTC, DAY_END_MS, DAYS, ETH, ONE_DAY, START_MS, at, called, of_day

SOL = "SOL/USDT:USDT"


class Compared(NamedTuple):
    """A day that both stores hold, compared, with its ledger kept as the platform keeps it."""

    settings: Settings
    database: Database
    lake: Lake
    bars: pl.DataFrame

    def keep(self, bars, day):
        """Both stores get these bars of a day, and its ledger is kept."""
        universe = load_universe("v1.0", self.settings.universes)
        self.lake.write_day(Signature.daily(Market.FUTURES, universe), day, bars)
        self.database.record(bars, channel=Channel.WEBSOCKET, run_id="a")
        found = ledger_of_day(self.database, self.lake, universe, Market.FUTURES, day)
        keep_ledger(self.database, self.lake, universe, found, run_id="r")

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
    found = Compared(own, database, Lake(own.lake_url), of_day(truth, DAYS[0]))
    found.keep(found.bars, DAYS[0])
    return found


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


@pytest.mark.parametrize("method", ["coverage", "missing_ranges", "unverified"])
def test_the_lake_is_listed_once_a_question(compared, truth, monkeypatch, method):
    """However many parts the bars are read in: its days are looked up once, and each day's ledger too."""
    compared.keep(of_day(truth, DAYS[1]), DAYS[1])
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
