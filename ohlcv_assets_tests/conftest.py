"""Fixtures for every test: a replay exchange, a PostgreSQL server, a lake. Each is a real process or folder.

Lives here: only the list of the fixture modules and what concerns pytest itself. Does not: any fixture's body.
"""

import hypothesis

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
]
