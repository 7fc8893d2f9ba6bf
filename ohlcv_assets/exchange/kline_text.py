"""A page of klines as the exchange writes it, read from its text at once: ten thousand numbers, and no object for each.

Lives here: the fast way from the text of an answer to its numbers, for text that is exactly what Binance sends. Does not: any
refusal. Whatever is not exactly that (a blank between two values, a number without quotes, an answer that was cut) is left to
klines.py, which reads it row by row, and refuses it or takes it by its own rules. So both ways give the same, or this one nothing.

What is left of the text when digits and points are taken out must be the skeleton of so many rows: so every row has twelve
fields, prices and volumes are quoted, and there is no sign, blank, letter or exponent in them. And no digit may stand where the
skeleton does not show it, between a quote or bracket and the comma beside it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

try:
    import orjson
except ImportError:  # ccxt brings it wherever it can be built: elsewhere every page is read row by row
    orjson = None  # type: ignore[assignment]

#: openTime, five decimals, closeTime, quote volume, trades, two decimals, unused: without their digits.
_ROW = b'[,"","","","","",,"",,"","",""],'
_FIELDS, _QUOTED = 12, 9
#: Which of them are whole numbers: the times and the number of trades.
_WHOLE = (0, 6, 8)
_DIGITS, _PUNCTUATION = b"0123456789.", b'"[]'
#: Whole numbers below it are doubles without loss.
_EXACT_BELOW = 2.0**53


def is_page(text: str) -> bool:
    """Whether an answer begins as a page with at least one kline does."""
    return text.startswith("[[")


def numbers_of(text: str) -> npt.NDArray[np.float64] | None:
    """The numbers of a page, a row each kline, each the double nearest to its digits; None for any other text.

    Args:
        text: the body of an answer.
    """
    content = text.encode()
    if orjson is None or not (count := _rows_of(content)):
        return None
    try:
        # All of them as one list of JSON numbers: its grammar refuses what is none, such as 1.2.3, 007 or nothing.
        values = orjson.loads(b"[" + content.translate(None, _PUNCTUATION) + b"]")
    except ValueError:
        return None
    if {type(value) for position in _WHOLE for value in values[position::_FIELDS]} != {int}:
        return None
    rows = np.array(values, dtype=np.float64).reshape(count, _FIELDS)
    return rows if (rows[:, _WHOLE] < _EXACT_BELOW).all() else None


def _rows_of(content: bytes) -> int:
    """How many rows the text has; 0 for a text that is no page in the exchange's own form."""
    skeleton = content.translate(None, _DIGITS)
    count = len(skeleton) // len(_ROW)
    if skeleton != b"[" + (_ROW * count)[:-1] + b"]" or not (content.startswith(b"[[") and content.endswith(b"]]")):
        return 0
    opened, closed = content.count(b',"'), content.count(b'",') + content.count(b'"]')
    return count if opened == closed == _QUOTED * count and content.count(b"],[") == count - 1 else 0
