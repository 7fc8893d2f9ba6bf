"""Snapshots through the real exchange code: what is chosen, since and until when it was listed, and the real listings of 2021."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from ohlcv_assets.errors import IncompletePage, UnknownSymbol, UsageError
from ohlcv_assets.exchange.listing import Listed, Listing
from ohlcv_assets.exchange.snapshot import Choice, chosen, take_snapshot, volumes_of
from ohlcv_assets.instruments import Market, Symbol, Universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, label_end, parse_time

EMPTY = Universe.of("v1.0", {})
START = parse_time("2025-06-01")
DATED = "since first bar"
ANY = frozenset()


def kept(universe: Universe) -> dict[Market, list[Symbol]]:
    """Every symbol of a universe."""
    return {market: list(universe.symbols[market]) for market in Market}


# The replay exchange: times of listing and delisting -------------------------------------------------------------


async def snapshot_of(replay, choices=None, former=EMPTY, keep=None) -> Universe:
    """A snapshot of everything that the replay exchange trades, or of what is chosen."""
    wanted = choices if choices is not None else dict.fromkeys(Market, Choice())
    taken = await take_snapshot(Settings(exchange_url=replay.url), wanted, former, keep or {})
    return taken.universe


async def test_what_the_exchange_trades_is_listed_since_its_first_bar(replay_exchange):
    """Futures say since when they are listed, spot shows it by its first bar; nothing is delisted."""
    universe = await snapshot_of(replay_exchange)
    for market, source in ((Market.SPOT, "since first bar"), (Market.FUTURES, "since onboardDate")):
        assert list(universe.symbols[market]) == sorted(set(replay_exchange.truth(market)["symbol"]))
        for symbol in universe.symbols[market]:
            assert universe.listings[symbol].spans == (Span(START, None, source),)


async def test_the_most_traded_are_those_of_the_last_day(replay_exchange):
    """The top symbols are those with the most quote volume in the 24 hours before now, and no others."""
    import polars as pl

    universe = await snapshot_of(replay_exchange, dict.fromkeys(Market, Choice(top=2)))
    for market in Market:
        bars = replay_exchange.truth(market).filter(pl.col("timestamp") < START + 12 * HOUR_MS)
        volumes = bars.group_by("symbol").agg(pl.sum("quote_volume")).sort("quote_volume", descending=True)
        assert set(universe.symbols[market]) == set(volumes["symbol"][:2])


async def test_a_hand_picked_symbol_must_be_listed(replay_exchange):
    """Exactly the hand-picked symbols are taken; one that the exchange does not list is named."""
    picked = {Market.SPOT: Choice(symbols=(Symbol("BTC/USDT"),))}
    assert (await snapshot_of(replay_exchange, picked)).symbols[Market.SPOT] == ("BTC/USDT",)
    with pytest.raises(UnknownSymbol, match="NOPE/USDT"):
        await snapshot_of(replay_exchange, {Market.SPOT: Choice(symbols=(Symbol("NOPE/USDT"),))})


async def test_the_market_that_is_not_asked_for_stays_as_it_was(replay_exchange):
    """A snapshot of spot takes over the futures of its base, times and all, without asking."""
    former = await snapshot_of(replay_exchange)
    universe = await snapshot_of(replay_exchange, {Market.SPOT: Choice(top=1)}, former, {Market.FUTURES: kept(former)[Market.FUTURES]})  # fmt: skip
    assert universe.symbols[Market.FUTURES] == former.symbols[Market.FUTURES]
    assert all(universe.listings[symbol] == former.listings[symbol] for symbol in universe.symbols[Market.FUTURES])
    assert len(universe.symbols[Market.SPOT]) == 1


async def test_the_same_listing_makes_the_same_universe(replay_exchange):
    """Two snapshots of one listing have one hash, whether times are found anew or known from before."""
    first = await snapshot_of(replay_exchange)
    assert (await snapshot_of(replay_exchange)).content_hash == first.content_hash
    assert (await snapshot_of(replay_exchange, {}, first, kept(first))).content_hash == first.content_hash
    again = await snapshot_of(replay_exchange, None, first, kept(first))
    assert again.content_hash == first.content_hash


async def test_faults_of_the_exchange_change_nothing(replay_factory):
    """Refusals, errors, broken and empty answers are asked again: the universe is the one of a healthy exchange."""
    healthy = await snapshot_of(replay_factory(symbols=3, start="2025-06-01T12:00Z", speed=30.0))
    asked = ["exchangeInfo", "klines", "ticker/24hr"]
    faults = [
        {"fault": "rest_5xx", "probability": 0.4, "endpoints": asked},
        {"fault": "rest_reset", "probability": 0.3, "endpoints": asked},
        {"fault": "rest_html", "count": 3, "endpoints": ["klines", "ticker/24hr"]},
        {"fault": "rest_empty_list", "count": 1, "endpoints": ["klines"]},
    ]
    replay = replay_factory(symbols=3, start="2025-06-01T12:00Z", speed=30.0)
    ids = replay.inject(faults)
    universe = await snapshot_of(replay, dict.fromkeys(Market, Choice(top=3)))
    assert universe.content_hash == healthy.content_hash
    assert {entry["rule"] for entry in replay.ledger()} == set(ids)


@pytest.mark.parametrize("gone", [False, True], ids=["still in exchangeInfo", "gone from exchangeInfo"])
async def test_a_delisted_symbol_stays_with_its_end(replay_factory, gone):
    """What a former version listed and the exchange trades no more is kept, and its last bar or delivery is its end."""
    replay = replay_factory(symbols=3, days=6, start="2025-06-06T12:00Z")
    end_ms = parse_time("2025-06-02T07:30Z")
    replay.inject([{"fault": "delist_at", "symbols": ["BTCUSDT"], "from": "2025-06-02T07:30Z", "gone": gone}])
    base = Universe.of("v1.0", {Market.SPOT: ["BTC/USDT"], Market.FUTURES: ["BTC/USDT:USDT"]})
    universe = await snapshot_of(replay, None, base, kept(base))
    spot, futures = universe.listings[Symbol("BTC/USDT")], universe.listings[Symbol("BTC/USDT:USDT")]
    assert spot == ListingTimes("BTCUSDT", (Span(START, end_ms, "since first bar, until last bar"),))
    how = ("since first bar", "last bar") if gone else ("since onboardDate", "deliveryDate")
    assert futures.spans == (Span(START, end_ms, f"{how[0]}, until {how[1]}"),)
    assert Symbol("BTC/USDT") in universe.at(end_ms - 1)[Market.SPOT]
    assert Symbol("BTC/USDT") not in universe.at(end_ms)[Market.SPOT]
    # A later version keeps it as it is.
    later = await snapshot_of(replay, {}, universe, kept(universe))
    assert later.content_hash == universe.content_hash


async def test_without_any_bar_the_end_of_a_vanished_symbol_is_now(replay_exchange):
    """A symbol that the exchange neither lists nor has bars of was listed until this minute at most; nothing is made up."""
    base = Universe.of("v1.0", {Market.SPOT: ["GONE/USDT"]})
    universe = await snapshot_of(replay_exchange, {Market.SPOT: Choice()}, base, kept(base))
    (span,) = universe.listings[Symbol("GONE/USDT")].spans
    assert (span.since_ms, span.source) == (None, "until gone from the listing")
    assert 0 <= span.until_ms - (START + 12 * HOUR_MS) < 12 * HOUR_MS
    assert span.until_ms % MINUTE_MS == 0


async def test_a_halt_is_no_delisting(replay_factory):
    """A symbol that has not traded for some hours is listed still; nor is one that waits for its first day left in."""
    replay = replay_factory(symbols=3, days=2, start="2025-06-02T12:00Z")
    replay.inject(
        [
            {"fault": "halt", "symbols": ["BTCUSDT"], "from": "2025-06-02T06:00Z", "until": "2025-06-02T18:00Z"},
            {"fault": "list_at", "symbols": ["ETHUSDT"], "from": "2025-06-02T20:00Z"},
        ]
    )
    former = await snapshot_of(replay, {Market.SPOT: Choice(statuses=ANY)})
    assert former.listings[Symbol("BTC/USDT")].until_ms is None
    assert Symbol("ETH/USDT") not in former.listings
    picked = dict.fromkeys(Market, Choice(statuses=ANY))
    taken = await take_snapshot(Settings(exchange_url=replay.url), picked, EMPTY, {})
    assert taken.left_out == ["ETH/USDT"]
    assert taken.universe.listings[Symbol("ETH/USDT:USDT")].since_ms == parse_time("2025-06-02T20:00Z")


async def test_a_symbol_that_came_back_has_two_spans(replay_factory):
    """After a long absence the new listing is a span of its own, and the times in between are no listing."""
    replay = replay_factory(symbols=2, days=6, start="2025-06-06T12:00Z")
    gone_ms, back_ms = parse_time("2025-06-01T10:00Z"), parse_time("2025-06-05T10:00Z")
    replay.inject([{"fault": "delist_at", "symbols": ["BTCUSDT"], "from": "2025-06-01T10:00Z", "until": "2025-06-05T10:00Z"}])  # fmt: skip
    times = ListingTimes("BTCUSDT", (Span(START, gone_ms, f"{DATED}, until last bar"),))
    former = Universe.of("v1.0", {Market.SPOT: ["BTC/USDT"]}, listings={Symbol("BTC/USDT"): times})
    universe = await snapshot_of(replay, {Market.SPOT: Choice(symbols=())}, former, kept(former))
    assert universe.listings[Symbol("BTC/USDT")].spans == (*times.spans, Span(back_ms, None, DATED))


async def test_an_end_that_was_none_is_taken_back(replay_factory):
    """A symbol that was called delisted and traded on within days was halted: its span goes on."""
    replay = replay_factory(symbols=2, days=2, start="2025-06-02T12:00Z")
    times = ListingTimes("BTCUSDT", (Span(START, START + HOUR_MS, f"{DATED}, until last bar"),))
    former = Universe.of("v1.0", {Market.SPOT: ["BTC/USDT"]}, listings={Symbol("BTC/USDT"): times})
    universe = await snapshot_of(replay, {Market.SPOT: Choice(symbols=())}, former, kept(former))
    assert universe.listings[Symbol("BTC/USDT")].spans == (Span(START, None, DATED),)


# Pure choosing ----------------------------------------------------------------------------------------------------


def listing_of(**listed) -> Listing:
    """A spot listing of USDT pairs that trade."""
    return Listing(
        Market.SPOT,
        {
            Symbol(f"{b}/USDT"): Listed(f"{b}USDT", None, True, "TRADING", "USDT", **more)
            for b, more in listed.items()
        },
    )


def test_equal_volumes_rank_by_name():
    """Symbols that traded the same, or nothing at all, are taken in the order of their names."""
    listing = listing_of(C={}, A={}, B={}, D={})
    volumes = {Symbol("D/USDT"): 5.0, Symbol("B/USDT"): 1.0, Symbol("C/USDT"): 1.0}
    assert chosen(listing, Choice(top=2), volumes) == ["B/USDT", "D/USDT"]
    assert chosen(listing, Choice(top=9), volumes) == ["A/USDT", "B/USDT", "C/USDT", "D/USDT"]


def test_what_ends_on_a_date_is_never_chosen():
    """Dated contracts are neither taken by a filter nor by hand."""
    listing = listing_of(A={}, B={"perpetual": False})
    assert chosen(listing, Choice(), {}) == ["A/USDT"]
    with pytest.raises(UnknownSymbol, match="ends on a date"):
        chosen(listing, Choice(symbols=(Symbol("B/USDT"),)), {})


@pytest.mark.parametrize(
    "choice", [{"top": 0}, {"top": 5, "quotes": ANY}, {"top": 5, "quotes": frozenset({"A", "B"})}]
)
def test_a_ranking_needs_one_unit(choice):
    """Volumes in different quote assets cannot be ranked, and no symbol is no ranking."""
    with pytest.raises(UsageError):
        Choice(**choice)


@pytest.mark.parametrize(
    "tickers",
    [None, {}, [], [{}], [{"symbol": "AUSDT"}], [{"symbol": "AUSDT", "quoteVolume": "nan"}], ["AUSDT"]],
    ids=str,
)
def test_volumes_that_are_none_are_no_answer(tickers):
    """A broken answer of the tickers is asked again, and never ranks a symbol last."""
    with pytest.raises(IncompletePage):
        volumes_of(listing_of(A={}), tickers)


# The real listings of 2021 ----------------------------------------------------------------------------------------


def _first_bar_ms(name: str) -> int:
    """A made-up first minute of a symbol, in 2020; the recordings hold no bars."""
    return parse_time("2020-01-01") + zlib.crc32(name.encode()) % 500_000 * MINUTE_MS


def volume_of(name: str) -> int:
    """A made-up volume of a symbol."""
    return zlib.crc32(name.encode())


def recorded_listings(folder) -> dict[str, dict]:
    """The recorded exchangeInfo of spot and of USD-M, by the path of their market."""
    files = {"/api/v3": "exchangeInfo_spot_2021-10-12.json.gz", "/fapi/v1": "exchangeInfo_um_2021-07-22.json.gz"}
    return {prefix: json.loads(gzip.decompress((folder / name).read_bytes())) for prefix, name in files.items()}


def _row(start_ms: int) -> list[object]:
    return [start_ms, "1", "1", "1", "1", "1", label_end(start_ms) - 1, "1", 1, "1", "1", "0"]


@asynccontextmanager
async def recorded_exchange(documents) -> AsyncIterator[str]:
    """The recorded listings, with a first and a last bar and a volume of every symbol, at a local address."""
    application = web.Application()
    for prefix, document in documents.items():
        now_ms = document["serverTime"]
        trading = {row["symbol"] for row in document["symbols"] if row["status"] == "TRADING"}

        async def time(_request, now_ms=now_ms):
            return web.json_response({"serverTime": now_ms})

        async def listed(_request, document=document):
            return web.json_response(document)

        async def klines(request, now_ms=now_ms, trading=trading):
            name = request.query["symbol"]
            last_ms = now_ms - now_ms % MINUTE_MS - (MINUTE_MS if name in trading else 30 * DAY_MS)
            return web.json_response([_row(_first_bar_ms(name) if "startTime" in request.query else last_ms)])

        async def tickers(_request, document=document):
            rows = [{"symbol": r["symbol"], "quoteVolume": str(volume_of(r["symbol"]))} for r in document["symbols"]]
            return web.json_response(rows)

        for path, answer in (("time", time), ("exchangeInfo", listed), ("klines", klines), ("ticker/24hr", tickers)):
            application.router.add_get(f"{prefix}/{path}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def named_in(document: dict, choice: Choice) -> set[str]:
    """The exchange's names of what a choice must take of a recorded listing, by the words of the listing itself."""
    return {
        row["symbol"]
        for row in document["symbols"]
        if (not choice.quotes or row["quoteAsset"] in choice.quotes)
        and (not choice.statuses or row["status"] in choice.statuses)
        and not row.get("contractType", "").endswith("QUARTER")
    }


@pytest.mark.real_data
@pytest.mark.parametrize(
    "choice",
    [Choice(), Choice(statuses=ANY), Choice(quotes=frozenset({"BUSD", "USDC"})), Choice(top=50)],
    ids=["trading", "any status", "other quotes", "top 50"],
)
async def test_the_real_listings_make_sane_universes(recorded_data, choice):
    """Of Binance's own listings: what fits and nothing else, legal symbols, sorted, the same every time, no dated contract."""
    documents = recorded_listings(recorded_data / "exchange_info")
    async with recorded_exchange(documents) as url:
        settings = Settings(exchange_url=url)
        first, again = [await take_snapshot(settings, dict.fromkeys(Market, choice), EMPTY, {}) for _ in range(2)]
    universe = first.universe
    assert universe.content_hash == again.universe.content_hash
    for market, document in zip(Market, documents.values(), strict=True):
        symbols = universe.symbols[market]
        names = {universe.listings[symbol].exchange_name for symbol in symbols}
        fitting = named_in(document, choice)
        assert names == (fitting if choice.top is None else set(sorted(fitting, key=volume_of)[-50:]))
        assert list(symbols) == sorted(set(symbols)) == [Symbol(symbol) for symbol in symbols]
        for symbol in symbols:
            times = universe.listings[symbol]
            assert times.since_ms is not None
            assert times.since_ms < (times.until_ms or document["serverTime"])
    assert any(times.until_ms for times in universe.listings.values()) == (choice.statuses == ANY)
