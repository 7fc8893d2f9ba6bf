"""Fixtures for every test: a replay exchange, a PostgreSQL server, a lake. Each is a real process or folder.

Lives here: only the list of the fixture modules and what concerns pytest itself. Does not: any fixture's body.
"""

pytest_plugins = [
    "ohlcv_assets_tests.fixtures.data",
    "ohlcv_assets_tests.fixtures.replay",
    "ohlcv_assets_tests.fixtures.postgres",
    "ohlcv_assets_tests.fixtures.lake",
    "ohlcv_assets_tests.fixtures.deployment",
]
