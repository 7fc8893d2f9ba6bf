"""A bar beside its neighbours, both sides next to each other, as a small drawing (SVG) inside a page.

Lives here: where each stroke goes. Does not: colours, which the page's style gives by class (`streamed`, `fetched`), so that
they follow light and dark; nor which bars (findings.py). Candles above, an amount below; where a side has no bar there is a
cross. Only numbers and fixed words get into the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ohlcv_assets.quality.report.findings import MINUTES_AROUND, DifferingBar
from ohlcv_assets.timestamps import MINUTE_MS, iso

_WIDTH, _LEFT, _RIGHT = 560, 8, 8
_PRICES_TOP, _PRICES_HEIGHT = 8, 104
_AMOUNT_TOP, _AMOUNT_HEIGHT = 122, 44
_TIMES_AT = 182
_HEIGHT = 190
_SIDES = ("streamed", "fetched")
_PRICES = ("open", "high", "low", "close")
_SLOTS = 2 * MINUTES_AROUND + 1
_SLOT = (_WIDTH - _LEFT - _RIGHT) / _SLOTS
_CANDLE = _SLOT * 0.26

_Row = Mapping[str, Any]


def chart(bar: DifferingBar) -> str:
    """The drawing of one differing bar among its neighbours: an `<svg>` element."""
    first_ms = bar.timestamp - MINUTES_AROUND * MINUTE_MS
    rows = list(bar.around.iter_rows(named=True))
    amount = next((name for name in bar.columns if name not in _PRICES), "volume")
    price = _scale([row[name] for row in rows for name in _PRICES], _PRICES_TOP, _PRICES_HEIGHT)
    height = _scale([0.0, *(row[amount] for row in rows)], _AMOUNT_TOP, _AMOUNT_HEIGHT)
    parts = [_marked_slot(), _axis(), *_times(first_ms)]
    for row in rows:
        slot = (row["timestamp"] - first_ms) / MINUTE_MS
        parts.append(_candle(row, _x(slot, row["side"]), price))
        parts.append(_column(row[amount], row["side"], _x(slot, row["side"]), height))
    there = {row["side"] for row in rows if row["timestamp"] == bar.timestamp}
    parts += [_cross(_x(MINUTES_AROUND, side), side) for side in _SIDES if side not in there]
    parts.append(f'<text class="small" x="{_LEFT}" y="{_AMOUNT_TOP - 3}">{amount}</text>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="the bar among its neighbours">'
        + "".join(parts)
        + "</svg>"
    )


def _x(slot: float, side: str) -> float:
    """The middle of a side's candle: streamed left of the slot's middle, fetched right of it."""
    return _LEFT + (slot + (0.3 if side == "streamed" else 0.7)) * _SLOT


def _scale(values: list[float | None], top: float, height: float) -> Callable[[float | None], float | None]:
    """From a value to its place; what is no finite number has none."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    # Halved: the span of two large doubles of opposite signs is no finite number.
    span = high / 2 - low / 2

    def place(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        share = (value / 2 - low / 2) / span if span > 0 else 0.5
        return top + height * (1 - share)

    return place


def _candle(row: _Row, x: float, price: Callable[[float | None], float | None]) -> str:
    open_, high, low, close = (price(row[name]) for name in _PRICES)
    drawn = ""
    if high is not None and low is not None:
        drawn += f'<line class="{row["side"]}" x1="{x:.1f}" x2="{x:.1f}" y1="{high:.1f}" y2="{low:.1f}"/>'
    if open_ is not None and close is not None:
        top, body = min(open_, close), max(abs(open_ - close), 1.0)
        kind = "down" if close > open_ else "up"  # y grows downwards
        drawn += _rectangle(f"{row['side']} {kind}", x - _CANDLE / 2, top, _CANDLE, body)
    return drawn


def _column(value: float | None, side: str, x: float, height: Callable[[float | None], float | None]) -> str:
    top, ground = height(value), height(0.0)
    if top is None or ground is None:
        return ""
    return _rectangle(f"{side} amount", x - _CANDLE / 2, min(top, ground), _CANDLE, max(abs(ground - top), 0.5))


def _rectangle(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _cross(x: float, side: str) -> str:
    y, arm = _PRICES_TOP + _PRICES_HEIGHT / 2, 5
    strokes = ((-arm, -arm, arm, arm), (-arm, arm, arm, -arm))
    return "".join(
        f'<line class="{side} cross" x1="{x + x1:.1f}" y1="{y + y1:.1f}" x2="{x + x2:.1f}" y2="{y + y2:.1f}"/>'
        for x1, y1, x2, y2 in strokes
    )


def _marked_slot() -> str:
    return _rectangle("marked", _LEFT + MINUTES_AROUND * _SLOT, 0, _SLOT, _TIMES_AT - 12)


def _axis() -> str:
    y = _AMOUNT_TOP + _AMOUNT_HEIGHT
    return f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'


def _times(first_ms: int) -> list[str]:
    return [
        f'<text class="small middle" x="{_LEFT + (slot + 0.5) * _SLOT:.1f}" y="{_TIMES_AT}">'
        f"{_clock(first_ms + slot * MINUTE_MS)}</text>"
        for slot in range(0, _SLOTS, 2)
    ]


def _clock(timestamp_ms: int) -> str:
    """12:34; nothing for a time in the wrong unit, which may lie beyond the calendar."""
    date, _, time = iso(timestamp_ms).partition("T")
    return time[:5] if date else ""
