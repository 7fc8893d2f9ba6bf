"""The replay exchange over plain HTTP: anyone's client gets Binance's answers, headers and refusals."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import requests

from ohlcv_assets.bars import VALUES
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.truth import exchange_symbol
from ohlcv_assets.timestamps import MINUTE_MS, floor_to, parse_time
from ohlcv_assets_tests.fixtures.replay import ReplayFactory, ReplayHandle

NOON_MS = parse_time("2025-06-01T12:00Z")
PREFIX = {Market.SPOT: "/api/v3", Market.FUTURES: "/fapi/v1"}
BOTH = pytest.mark.parametrize("market", list(Market))


def get(replay: ReplayHandle, path: str, **parameters: Any) -> requests.Response:
    return requests.get(replay.url + path, params=parameters, timeout=10)


def parsed(rows: list[list[Any]]) -> list[tuple[float, ...]]:
    """Timestamp and the nine values of each row, in the bar's order, parsed as a client parses them."""
    return [(r[0], *map(float, r[1:6]), float(r[7]), r[8], float(r[9]), float(r[10])) for r in rows]


def bars_of(truth: pl.DataFrame, symbol: str) -> list[tuple[float, ...]]:
    return truth.filter(pl.col("symbol") == symbol).select("timestamp", *VALUES).rows()


@BOTH
def test_a_whole_history_is_the_truth(replay_exchange: ReplayHandle, market: Market) -> None:
    """Page after page, every value of every symbol up to now equals the truth's double, bit for bit."""
    truth = replay_exchange.truth(market)
    for symbol in truth["symbol"].unique():
        served: list[tuple[float, ...]] = []
        start_ms = parse_time("2025-06-01")
        while start_ms < NOON_MS:
            asked = {"interval": "1m", "startTime": start_ms, "endTime": NOON_MS - 1, "limit": 499}
            rows = get(replay_exchange, f"{PREFIX[market]}/klines", symbol=exchange_symbol(symbol), **asked).json()
            served += parsed(rows)
            start_ms = rows[-1][0] + MINUTE_MS
        assert served == bars_of(truth, symbol)[:720]


@BOTH
def test_time_ping_and_clock_agree(replay_exchange: ReplayHandle, market: Market) -> None:
    """The server's time, the listing's time and the latest bar all follow the exchange's own clock."""
    before_ms = replay_exchange.stats()["clock_ms"]
    assert get(replay_exchange, f"{PREFIX[market]}/ping").json() == {}
    time_ms = get(replay_exchange, f"{PREFIX[market]}/time").json()["serverTime"]
    listing_ms = get(replay_exchange, f"{PREFIX[market]}/exchangeInfo").json()["serverTime"]
    last = get(replay_exchange, f"{PREFIX[market]}/klines", symbol="BTCUSDT", interval="1m", limit=1).json()[-1]
    after_ms = replay_exchange.stats()["clock_ms"]
    assert NOON_MS <= before_ms <= time_ms <= listing_ms <= after_ms
    assert last[0] in (floor_to(listing_ms, MINUTE_MS), floor_to(after_ms, MINUTE_MS))


@BOTH
def test_every_answer_tells_the_speed_and_the_used_weight(replay_exchange: ReplayHandle, market: Market) -> None:
    """Answers and refusals alike carry X-Replay-Speed and the weight of the minute."""
    for path in ("ping", "klines"):
        headers = get(replay_exchange, f"{PREFIX[market]}/{path}").headers
        assert headers["X-Replay-Speed"] == "1"
        assert int(headers["X-MBX-USED-WEIGHT-1M"]) > 0
        assert ("X-MBX-USED-WEIGHT" in headers) == (market is Market.SPOT)
    assert get(replay_exchange, "/nowhere").headers["X-Replay-Speed"] == "1"


def test_each_request_costs_what_it_costs(replay_factory: ReplayFactory) -> None:
    """The used weight grows by each venue's price, for a refused request too; USD-M and COIN-M share one pool."""
    replay = replay_factory(symbols=1)
    replay.set_speed(0)  # no minute may pass while this counts

    def cost(path: str, pool: Market, **parameters: Any) -> int:
        before = replay.stats()["max_used_weight"][pool]
        get(replay, path, **parameters)
        return replay.stats()["max_used_weight"][pool] - before

    asked = {"symbol": "BTCUSDT", "interval": "1m"}
    assert cost("/api/v3/exchangeInfo", Market.SPOT) == 20
    assert cost("/api/v3/klines", Market.SPOT, **asked, limit=1000) == 2
    assert cost("/api/v3/uiKlines", Market.SPOT, **asked) == 2
    assert cost("/api/v3/time", Market.SPOT) == 1
    assert cost("/fapi/v1/exchangeInfo", Market.FUTURES) == 1
    assert cost("/fapi/v1/klines", Market.FUTURES, **asked) == 5
    assert cost("/fapi/v1/klines", Market.FUTURES, **asked, limit=499) == 2
    assert cost("/fapi/v1/klines", Market.FUTURES, **asked, limit=1501) == 10
    assert cost("/dapi/v1/exchangeInfo", Market.FUTURES) == 1
    assert cost("/dapi/v1/klines", Market.FUTURES, **asked, limit=99) == 1


@BOTH
def test_a_wrong_request_is_a_400_with_a_code(replay_exchange: ReplayHandle, market: Market) -> None:
    """A refusal is an object with code and msg, never a list."""
    for changed, code in (({"symbol": "NOSUCHUSDT"}, -1121), ({"interval": "7m"}, -1120), ({"limit": "x"}, -1100)):
        answer = get(replay_exchange, f"{PREFIX[market]}/klines", **{"symbol": "BTCUSDT", "interval": "1m"} | changed)
        assert answer.status_code == 400
        assert answer.json()["code"] == code
        assert answer.json()["msg"]


def test_beyond_the_budget_is_429_then_a_ban(replay_factory: ReplayFactory) -> None:
    """429 names the seconds to the next minute; whoever goes on is banned with 418; the other market goes on."""
    replay = replay_factory(symbols=1)
    replay.set_speed(0)
    asked = {"symbol": "BTCUSDT", "interval": "1m", "limit": 1500}
    with requests.Session() as session:
        answers = [session.get(f"{replay.url}/fapi/v1/klines", params=asked, timeout=10) for _ in range(282)]
    assert [answer.status_code for answer in answers] == [200] * 240 + [429] * 40 + [418] * 2
    assert 1 <= int(answers[240].headers["Retry-After"]) <= 60
    assert int(answers[-1].headers["Retry-After"]) == 120
    assert {answer.json()["code"] for answer in answers[240:]} == {-1003}
    assert get(replay, "/dapi/v1/exchangeInfo").status_code == 418
    assert get(replay, "/api/v3/exchangeInfo").status_code == 200
    assert replay.stats()["refused"] == {"429": 40, "418": 3}


def test_a_listing_has_what_clients_read(replay_exchange: ReplayHandle) -> None:
    """Each symbol of exchangeInfo has its status, assets and a tick and a step on which all its bars lie."""
    for market in Market:
        truth = replay_exchange.truth(market)
        for listed in get(replay_exchange, f"{PREFIX[market]}/exchangeInfo").json()["symbols"]:
            filters = {entry["filterType"]: entry for entry in listed["filters"]}
            bars = truth.filter(pl.col("symbol").str.starts_with(f"{listed['baseAsset']}/{listed['quoteAsset']}"))
            for columns, unit in (
                (("open", "high", "low", "close"), filters["PRICE_FILTER"]["tickSize"]),
                (("volume",), filters["LOT_SIZE"]["stepSize"]),
            ):
                units = bars.select(pl.col(columns) / float(unit))
                assert (units - units.select(pl.all().round())).select(pl.all().abs().max()).max_horizontal()[
                    0
                ] < 1e-3
            assert listed["status"] == "TRADING"
    assert listed["contractType"] == "PERPETUAL"
    assert listed["onboardDate"] == parse_time("2025-06-01")


def test_the_speed_can_be_changed(replay_factory: ReplayFactory) -> None:
    """A test can stop the clock, start it again, and is refused a speed that is none."""
    replay = replay_factory(symbols=1)
    replay.set_speed(0)
    stopped_ms = replay.stats()["clock_ms"]
    assert replay.stats()["clock_ms"] == stopped_ms
    replay.set_speed(600)
    assert get(replay, "/api/v3/ping").headers["X-Replay-Speed"] == "600"
    while replay.stats()["clock_ms"] < stopped_ms + MINUTE_MS:
        pass
    for wrong in ({"speed": -1}, {"speed": 601}, {"speed": "fast"}, {}, [1]):
        assert requests.post(f"{replay.url}/_replay/clock", json=wrong, timeout=10).status_code == 400


@pytest.mark.real_data
def test_a_recorded_outage_is_replayed(replay_factory: ReplayFactory, recorded_data) -> None:
    """Spot omits the minutes of a recorded halt, and futures has no symbols when only spot was recorded."""
    file = recorded_data / "klines" / "spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet"
    replay = replay_factory(data=file, market=Market.SPOT, start="2021-04-20T06:00Z")
    outage = {"startTime": parse_time("2021-04-20T01:58Z"), "endTime": parse_time("2021-04-20T04:31Z")}
    rows = get(replay, "/api/v3/klines", symbol="ETHBTC", interval="1m", **outage).json()
    assert [row[0] for row in rows] == [
        parse_time(f"2021-04-20T{time}Z") for time in ("01:58", "01:59", "04:30", "04:31")
    ]
    assert get(replay, "/fapi/v1/exchangeInfo").json()["symbols"] == []
    assert get(replay, "/fapi/v1/klines", symbol="ETHBTC", interval="1m").json()["code"] == -1121
    assert replay.stats()["data"]["spot"]["symbols"] == 40
