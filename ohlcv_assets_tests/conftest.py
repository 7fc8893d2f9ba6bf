"""Fixtures for every test: a replay exchange, a PostgreSQL server, a lake. Each is a real process or folder.

Lives here: only the list of the fixture modules and what concerns pytest itself. Does not: any fixture's body.
"""

import hypothesis
import pytest

# The same examples in every run, and no example is a failure for being slow: the machine may be busy.
hypothesis.settings.register_profile("ohlcv", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ohlcv")

pytest_plugins = [
    "ohlcv_assets_tests.fixtures.data",
    "ohlcv_assets_tests.fixtures.replay",
    "ohlcv_assets_tests.fixtures.proxy",
    "ohlcv_assets_tests.fixtures.postgres",
    "ohlcv_assets_tests.fixtures.lake",
    "ohlcv_assets_tests.fixtures.deployment",
    "ohlcv_assets_tests.fixtures.demo",
    "ohlcv_assets_tests.fixtures.webhook",
    "ohlcv_assets_tests.fixtures.program",
]

#: A file's tests stay together when the suite runs in several processes. These take longest, many of them waiting: they are begun
#: first, in this order.
_LONGEST = (
    "ui/test_ui.py",
    "docs/test_pages_that_run.py",
    "orchestration/test_repair_loop.py",
    "ui/test_launchpad.py",
    "faults/test_matrix.py",
    "integration/test_download_bulk.py",
    "integration/test_stream.py",
    "orchestration/test_assets.py",
    "orchestration/test_ledger_asset.py",
    "faults/test_simulation.py",
    "integration/test_stream_log.py",
    "integration/test_budget_shared.py",
    "unit/test_expectations.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: _place(item.path.as_posix()))


def _place(path: str) -> int:
    return next((number for number, name in enumerate(_LONGEST) if path.endswith(name)), len(_LONGEST))
