"""The small parts of the exchange: what is listed, how one subscribes, when one asks again, what an answer means."""

import json
import subprocess
import sys

import pytest

from ohlcv_assets.clock import ExchangeClock, SystemClock
from ohlcv_assets.errors import (
    Banned,
    ExchangeUnavailable,
    IncompletePage,
    OhlcvError,
    RateLimited,
    Refused,
    UnknownSymbol,
)
from ohlcv_assets.exchange.binance import our_errors
from ohlcv_assets.exchange.connection import CHUNK_SYMBOLS, FRAME_BYTES, subscription_chunks
from ohlcv_assets.exchange.listing import Listing
from ohlcv_assets.exchange.retrying import patiently, wait_before_retry
from ohlcv_assets.exchange.stream_report import Percentiles
from ohlcv_assets.instruments import Market, Symbol

AT_60X = ExchangeClock(1_748_736_000_000, 0.0, 60.0)


def ccxt_market(exchange_id: str, **changes: object) -> dict[str, object]:
    return {"id": exchange_id, "created": None, "active": True, **changes}


LISTED = Listing.of(
    Market.FUTURES,
    {
        "BTC/USDT:USDT": ccxt_market("BTCUSDT", created=1_569_398_400_000),
        "ETH/USDT:USDT": ccxt_market("ETHUSDT", active=False),
        "BTC/USDT": ccxt_market("BTCUSDT"),
        "no symbol of ours": ccxt_market("NONE"),
    },
)


def test_a_listing_holds_the_markets_own_symbols():
    """What belongs to the other market, or has no legal symbol, is not listed; the rest says since when."""
    assert list(LISTED) == ["BTC/USDT:USDT", "ETH/USDT:USDT"]
    assert LISTED[Symbol("BTC/USDT:USDT")].listed_since_ms == 1_569_398_400_000
    assert not LISTED[Symbol("ETH/USDT:USDT")].active
    assert LISTED.symbol_of("BTCUSDT") == "BTC/USDT:USDT"
    assert LISTED.symbol_of("NONE") is None


def test_required_symbols_come_back_once_and_in_order():
    """Asking for a symbol twice is asking once."""
    assert LISTED.require(["ETH/USDT:USDT", "BTC/USDT:USDT", "ETH/USDT:USDT"]) == ["ETH/USDT:USDT", "BTC/USDT:USDT"]


def test_all_unknown_symbols_are_named_at_once():
    """One error names every symbol that is not listed, and the nearest that is."""
    with pytest.raises(UnknownSymbol, match=r"ETC/USDT:USDT, XX/USDT:USDT") as raised:
        LISTED.require(["ETC/USDT:USDT", "BTC/USDT:USDT", "XX/USDT:USDT"])
    assert "ETH/USDT:USDT" in raised.value.hint


@pytest.mark.parametrize("name", ["BTCUSDT", "1000000MOGUSDT", "币安人生USDT", "A" * 40])
@pytest.mark.parametrize("count", [1, 149, 150, 151, 400])
def test_every_subscription_is_one_that_the_exchange_reads(name, count):
    """No SUBSCRIBE frame is longer than the exchange reads, and together they hold every symbol once."""
    symbols = [Symbol(f"S{index}/USDT") for index in range(count)]
    ids = dict(zip(symbols, (f"{index}{name}" for index in range(count)), strict=True))
    chunks = subscription_chunks(symbols, list(ids.values()))
    assert [symbol for chunk in chunks for symbol in chunk] == symbols
    for chunk in chunks:
        frame = {"method": "SUBSCRIBE", "params": [f"{ids[symbol].lower()}@kline_1m" for symbol in chunk], "id": 9}
        assert len(json.dumps(frame, separators=(",", ":"))) <= FRAME_BYTES < 4096
        assert 1 <= len(chunk) <= CHUNK_SYMBOLS


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (ExchangeUnavailable("gone"), True),
        (IncompletePage("short"), True),
        (RateLimited("slow", retry_after_s=30.0), 0.5),
        (Banned("out", retry_after_s=120.0), 2.0),
        (Banned("out", retry_after_s=601.0), False),
        (Refused("no"), False),
        (UnknownSymbol("what"), False),
        (ValueError("a bug"), False),
    ],
)
def test_what_is_asked_again_and_when(error, answer):
    """Transient errors are repeated, a stop is waited for to the second of the exchange's clock, the rest is final."""
    assert wait_before_retry(AT_60X, patience_s=600.0)(error) == answer


async def test_a_question_is_repeated_until_it_is_answered():
    """Two failures and an answer are an answer."""
    asked = []
    async for attempt in patiently(ExchangeClock(0, 0.0, 600.0)):
        with attempt:
            asked.append(attempt.num)
            if len(asked) < 3:
                raise ExchangeUnavailable("busy")
    assert asked == [1, 2, 3]


async def test_a_question_is_not_repeated_for_ever():
    """After so many attempts the last error is raised as it is."""
    asked = []

    async def ask() -> None:
        async for attempt in patiently(ExchangeClock(0, 0.0, 600.0), attempts=4):
            with attempt:
                asked.append(attempt.num)
                raise ExchangeUnavailable(f"busy {attempt.num}")

    with pytest.raises(ExchangeUnavailable, match="busy 4"):
        await ask()
    assert asked == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("RequestTimeout", ExchangeUnavailable),
        ("ExchangeError", ExchangeUnavailable),
        ("OperationFailed", ExchangeUnavailable),
        ("RateLimitExceeded", RateLimited),
        ("DDoSProtection", RateLimited),
        ("BadSymbol", UnknownSymbol),
        ("BadRequest", Refused),
    ],
)
def test_what_ccxt_raises_becomes_ours(name, ours):
    """Each exception of ccxt leaves as the error of ours that it means, with the cause kept."""
    import ccxt

    with pytest.raises(OhlcvError, match=name) as raised, our_errors(AT_60X):
        raise getattr(ccxt, name)("what happened")
    assert type(raised.value) is ours
    assert type(raised.value.__cause__).__name__ == name
    if isinstance(raised.value, RateLimited):
        assert 0 < raised.value.retry_after_s <= 60


def test_an_error_that_is_not_ccxts_passes():
    """Errors of ours and bugs go through the translation unchanged."""
    with pytest.raises(Banned), our_errors(AT_60X):
        raise Banned("out", retry_after_s=1.0)
    with pytest.raises(ZeroDivisionError), our_errors(AT_60X):
        raise ZeroDivisionError


def test_percentiles_are_values_that_happened():
    """No percentile is interpolated, and none is made up for no values."""
    assert Percentiles.of([3.0, 1.0, 2.0]) == Percentiles(3, 2.0, 3.0, 3.0, 3.0)
    assert Percentiles.of([]) == Percentiles(0, None, None, None, None)


def test_the_systems_clock_is_patient_too():
    """A retry on the machine's own clock waits for the seconds it was told."""
    assert wait_before_retry(SystemClock(), 60.0)(RateLimited("slow", retry_after_s=7.0)) == 7.0


def test_importing_the_exchange_imports_no_ccxt():
    """The modules of the exchange load without ccxt, which takes half a second."""
    modules = (
        "binance",
        "fetch",
        "stream",
        "connection",
        "stream_socket",
        "stragglers",
        "klines",
        "budget",
        "server_time",
    )
    code = "".join(f"import ohlcv_assets.exchange.{module};" for module in modules)
    code += "import sys; sys.exit('ccxt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
