"""The fault matrix over real servers: whatever breaks, no bar is lost, there twice, or wrong."""

import asyncio
import re
from pathlib import Path

import pytest

from ohlcv_assets_tests.faults.findings import Found
from ohlcv_assets_tests.faults.matrix import ROWS, Elsewhere, Later, Own
from ohlcv_assets_tests.faults.own_trials import OWN
from ohlcv_assets_tests.faults.report import table
from ohlcv_assets_tests.faults.stage import stage
from ohlcv_assets_tests.faults.trials import try_everything

#: At forty times Binance's speed, on a busy machine: half a second of ours.
_ON_THEIR_WAY_MS = 20_000
_HERE = [row for row in ROWS if not isinstance(row.shown, Elsewhere | Later)]


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    """What every trial found; they run at once, once."""
    with stage() as servers:
        # A trial that never ends is a failure, and not a suite that never ends.
        return asyncio.run(asyncio.wait_for(try_everything(servers), 300))


@pytest.mark.parametrize("row", _HERE, ids=lambda row: row.number)
def test_nothing_is_lost_doubled_or_wrong(found, row):
    """Under this fault every bar of the exchange is stored once and right, and what is named missing is not there."""
    result = found[row.number]
    assert result.bars > 0
    assert (result.lost, result.duplicated, result.wrong, result.false_alarms) == (0, 0, 0, 0)


@pytest.mark.parametrize("row", [row for row in _HERE if row.number != "33"], ids=lambda row: row.number)
def test_every_fault_really_happened(found, row):
    """The exchange's ledger, or we ourselves, have injected the fault that the row is about."""
    assert found[row.number].injected > 0


@pytest.mark.parametrize(("row", "retry_after_s"), [("17", 30), ("18", 60)])
def test_a_stop_is_obeyed_to_its_end(found, row, retry_after_s):
    """After a refusal nothing is asked until the time that it names is over, but for questions that were on their way."""
    first, *others = found[row].refusals_ms
    later = [at_ms for at_ms in others if at_ms > first + _ON_THEIR_WAY_MS]
    assert all(at_ms >= first + (retry_after_s - 1) * 1000 for at_ms in later)


def test_the_table_has_every_row(found):
    """The printed matrix has a line for every fault, and no row that should have been run was not."""
    lines = table(found).splitlines()[2:]
    assert len(lines) == len(ROWS)
    assert not [line for line in lines if "not run" in line]


def test_what_is_shown_elsewhere_is_shown_there():
    """Every test that a row names is a test function of this suite, and every trial of its own exists."""
    suite = Path(__file__).resolve().parents[1]
    tests = {
        name for path in suite.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    }
    assert [row.number for row in ROWS if isinstance(row.shown, Elsewhere) and row.shown.test not in tests] == []
    numbers = [row.number for row in ROWS]
    assert len(set(numbers)) == len(numbers)
    assert {str(number) for number in range(1, 41)} == {re.sub("[a-z]", "", number) for number in numbers}
    assert {row.shown.function for row in ROWS if isinstance(row.shown, Own)} == {trial.__name__ for trial in OWN}
