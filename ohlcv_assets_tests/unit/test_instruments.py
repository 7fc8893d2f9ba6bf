"""Promises of instruments.py about markets and symbols: real forms pass, hostile ones cannot travel."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.errors import UnknownMarket, UnknownSymbol
from ohlcv_assets.instruments import Market, Symbol

_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
bases = st.text(st.characters(categories=("L", "Nd")), min_size=1, max_size=30)
quotes = st.text(_UPPER, min_size=1, max_size=20)

REAL = [
    "BTC/USDT",
    "1INCH/USDT",
    "1000SATS/USDT",
    "ETH/BTC",
    "币安人生/USDT",
    "BTC/USDT:USDT",
    "1000PEPE/USDT:USDT",
    "币安人生/USDT:USDT",
    "ETH/BTC:BTC",
    "BTC/USDT:USDT-261225",
]
HOSTILE = [
    "",
    "BTC",
    "BTCUSDT",
    "BTC/",
    "/USDT",
    "BTC/USDT/",
    "BTC//USDT",
    "btc/usdt",
    "BTC/usdt",
    "../BTC/USDT",
    "../../etc/passwd",
    "../USDT",
    "BTC/..",
    "BTC/USDT:..",
    ".BTC/USDT",
    "BTC\\/USDT",
    "BTC/USDT\n",
    "\nBTC/USDT",
    "BTC\n/USDT",
    "BTC/USDT\r\n",
    "BTC/USDT\x00",
    "BTC /USDT",
    " BTC/USDT",
    "BTC/USDT ",
    "BTC'/USDT",
    "BTC/USDT'; drop table bars; --",
    'BTC"/USDT',
    "BTC/USDT`",
    "B_C/USDT",
    "B-C/USDT",
    "BTC%2F/USDT",
    "BTC/USD\u0660",  # ARABIC-INDIC DIGIT ZERO in the quote
    "BTC/\u0661\u0662",
    "BTC/USDT:USDT-\u0662\u0666\u0661\u0662\u0662\u0665",  # the same digits in the date
    "BTC/USDT:USDT-26122",
    "BTC/USDT:USDT-2612255",
    "BTC/USDT-261225",
    "BTC/USDT:",
    "BTC/USDT:USDT:USDT",
    "BTC/USDT:USDT-261225-50000-C",
    "B\u200bTC/USDT",  # ZERO WIDTH SPACE
    "B\u202eTC/USDT",  # RIGHT-TO-LEFT OVERRIDE
    "\U0001f680/USDT",
    "A" * 31 + "/USDT",
    "BTC/" + "U" * 21,
    "A" * 1_000_000,
    "A" * 1_000_000 + "/USDT",
]


@pytest.mark.parametrize("text", REAL)
def test_real_symbols_are_accepted(text):
    """Every form that the exchange lists passes unchanged, letters of other scripts included."""
    assert Symbol(text) == text


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:40])
def test_hostile_texts_are_no_symbols(text):
    """What could be taken for a path, a quote, a line of a log or a number of another script is refused."""
    with pytest.raises(UnknownSymbol):
        Symbol(text)


def test_a_refused_text_of_any_length_makes_a_readable_message():
    """The message of a huge refused text stays short."""
    with pytest.raises(UnknownSymbol) as refused:
        Symbol("A" * 1_000_000)
    assert len(str(refused.value)) < 1_000


@given(bases, quotes, st.none() | quotes, st.booleans())
def test_a_legal_symbol_round_trips(base, quote, settle, is_dated):
    """A symbol is its own text: through str, pickle and copies, and checked twice, it stays the same."""
    text = f"{base}/{quote}" + ("" if settle is None else f":{settle}" + ("-261225" if is_dated else ""))
    symbol = Symbol(text)
    assert str(symbol) == text
    assert Symbol(symbol) == symbol
    assert pickle.loads(pickle.dumps(symbol)) == symbol  # noqa: S301
    assert copy.deepcopy(symbol).market is symbol.market


@given(st.text(max_size=40))
def test_no_text_that_passes_can_leave_its_place(text):
    """Whatever is accepted has one slash, and no dot, space, quote or control character."""
    try:
        symbol = Symbol(text)
    except UnknownSymbol:
        return
    assert symbol.count("/") == 1
    assert not set(symbol) & set(" .\\'\"`;\n\r\t\x00")
    assert symbol.isprintable()


@pytest.mark.parametrize(
    ("text", "market"),
    [
        ("BTC/USDT", Market.SPOT),
        ("ETH/BTC", Market.SPOT),
        ("BTC/USDT:USDT", Market.FUTURES),
        ("BTC/USDT:USDT-261225", Market.FUTURES),
    ],
)
def test_the_form_of_a_symbol_tells_its_market(text, market):
    """A symbol that names its settlement is a futures symbol, any other is spot."""
    assert Symbol(text).market is market


@pytest.mark.parametrize("market", list(Market))
def test_a_market_is_parsed_from_its_name(market):
    """Every market's own name is understood, and is what it prints as."""
    assert Market.parse(str(market)) is market


@pytest.mark.parametrize("text", ["", "Spot", "SPOT", "future", "swap", "spot\n", " spot", "margin"])
def test_an_unknown_market_is_named(text):
    """Any other name is refused, quoted, with the two that there are."""
    with pytest.raises(UnknownMarket) as refused:
        Market.parse(text)
    assert repr(text) in refused.value.message
    assert refused.value.hint == "use spot or futures"
