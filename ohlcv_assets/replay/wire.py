"""Bars as Binance writes them: decimal text that gives back the very same double, REST rows and WebSocket events.

Lives here: every byte form of a bar. Does not: which bar is sent when. Spot writes eight decimals; USD-M writes the
decimals of the symbol's grid. Where that many decimals would not give back the double, the shortest text that
does is written instead: never an exponent, never another value.
"""

from __future__ import annotations

from decimal import Decimal

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.partial import Decimals, Kline
from ohlcv_assets.timestamps import MINUTE_MS

_SPOT_DECIMALS = Decimals(8, 8, 8)


def decimal_text(value: float, decimals: int) -> str:
    """The value in positional notation: `decimals` decimals where that is exact, else as many as it needs."""
    text = f"{value:.{decimals}f}"
    return text if float(text) == value else f"{Decimal(repr(value)):f}"


def printed_decimals(market: Market, decimals: Decimals) -> Decimals:
    """How many decimals the market writes for a symbol on this grid."""
    return _SPOT_DECIMALS if market is Market.SPOT else decimals


def kline_row(kline: Kline, decimals: Decimals) -> str:
    """A REST row of twelve columns, as JSON text."""
    o, h, low, c, v, q, buy, buy_quote = _texts(kline, decimals)
    end_ms = kline.timestamp + MINUTE_MS - 1
    return f'[{kline.timestamp},"{o}","{h}","{low}","{c}","{v}",{end_ms},"{q}",{kline.trade_count},"{buy}","{buy_quote}","0"]'


def kline_event(kline: Kline, decimals: Decimals, *, name: str, event_ms: int, closed: bool) -> str:
    """A WebSocket kline event, as JSON text.

    Args:
        kline: the bar, final or so far.
        decimals: how many decimals to write.
        name: the exchange's name of the symbol, BTCUSDT.
        event_ms: `E`, the exchange's clock when the event is sent.
        closed: `x`, whether this is the bar's last event.
    """
    o, h, low, c, v, q, buy, buy_quote = _texts(kline, decimals)
    first, last = (
        (kline.first_trade_id, kline.first_trade_id + kline.trade_count - 1) if kline.trade_count else (-1, -1)
    )
    return (
        f'{{"e":"kline","E":{event_ms},"s":"{name}","k":{{"t":{kline.timestamp},"T":{kline.timestamp + MINUTE_MS - 1},'
        f'"s":"{name}","i":"1m","f":{first},"L":{last},"o":"{o}","c":"{c}","h":"{h}","l":"{low}","v":"{v}",'
        f'"n":{kline.trade_count},"x":{"true" if closed else "false"},"q":"{q}","V":"{buy}","Q":"{buy_quote}","B":"0"}}}}'
    )


def _texts(kline: Kline, decimals: Decimals) -> tuple[str, str, str, str, str, str, str, str]:
    price, volume, quote = decimals
    return (
        decimal_text(kline.open, price),
        decimal_text(kline.high, price),
        decimal_text(kline.low, price),
        decimal_text(kline.close, price),
        decimal_text(kline.volume, volume),
        decimal_text(kline.quote_volume, quote),
        decimal_text(kline.taker_buy_volume, volume),
        decimal_text(kline.taker_buy_quote_volume, quote),
    )
