"""The fault matrix as one Markdown table.

Lives here: the table. Does not: the trials (trials.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from ohlcv_assets_tests.faults.findings import Found
from ohlcv_assets_tests.faults.matrix import ROWS, Elsewhere, Later, Row

_HEAD = (
    "",
    "fault",
    "what must happen",
    "injected",
    "bars",
    "lost",
    "duplicated",
    "wrong",
    "detect s",
    "repair s",
    "where",
)


def table(found: Mapping[str, Found]) -> str:
    """A line a row of the matrix."""
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    return "\n".join([*lines, *(_line(_cells(row, found.get(row.number))) for row in ROWS)])


def _cells(row: Row, found: Found | None) -> list[str]:
    head = [row.number, row.fault, row.expected]
    match row.shown:
        case Elsewhere(test):
            return [*head, *[""] * 7, f"`{test}`"]
        case Later(reason):
            return [*head, *[""] * 7, f"later: {reason}"]
    if found is None:
        return [*head, *[""] * 7, "not run"]
    counts = [found.injected, found.bars, found.lost, found.duplicated, found.wrong]
    return [*head, *map(str, counts), _seconds(found.detect_s), _seconds(found.repair_s), "here"]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _line(cells: object) -> str:
    return f"| {' | '.join(cells)} |"  # type: ignore[arg-type]
