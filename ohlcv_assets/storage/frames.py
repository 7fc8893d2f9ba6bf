"""Frames that are no bars: their columns checked before a store takes them.

Lives here: the one check that all of them share. Does not: any schema (each stands beside its store), or the bar's own
check (bars.conform).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from ohlcv_assets.errors import InvalidBars


def conformed(frame: pl.DataFrame, schema: Mapping[str, pl.DataType], what: str) -> pl.DataFrame:
    """These columns of the frame, in order. A column of nothing but null may have no dtype yet; nothing else is cast.

    Args:
        frame: may have more columns.
        schema: the columns and dtypes that it must have.
        what: the rows are, in the plural, for the error.

    Raises:
        InvalidBars: a column is absent, or of another dtype.
    """
    found = {name: frame.schema.get(name) for name in schema}
    wrong = {name: found[name] for name in schema if found[name] not in (schema[name], pl.Null())}
    if wrong:
        raise InvalidBars(
            f"these are no {what}: {', '.join(f'{name} is {dtype}' for name, dtype in wrong.items())}",
            hint=f"give the columns {', '.join(f'{name} {dtype}' for name, dtype in schema.items())}",
        )
    return frame.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
