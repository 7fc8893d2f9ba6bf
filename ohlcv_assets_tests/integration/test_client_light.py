"""Promises of the client's weight: what is not needed is not imported."""

import os
import subprocess
import sys

from ohlcv_assets_tests.integration.conftest import BTC


def _run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout


def test_the_lake_alone_is_enough(place):
    """Reading the lake in a fresh process loads no database driver, no Dagster, no ccxt and no Great Expectations."""
    code = f"""
import sys
from ohlcv_assets import OhlcvClient
bars = OhlcvClient().read({BTC!r}, "2025-06-01", "2025-06-02", market="futures")
heavy = {{"dagster", "ccxt", "great_expectations", "psycopg", "adbc_driver_postgresql", "pyarrow", "pandas"}}
print(bars.height, sorted(heavy & set(sys.modules)))
"""
    environment = {
        "OHLCV_HOME": str(place.home),
        "OHLCV_LAKE": str(place.lake),
        "OHLCV_REGION": place.region,
        "OHLCV_UNIVERSE": place.universe,
        "OHLCV_UNIVERSES": str(place.universes),
    }
    assert _run(code, **environment).split("\n")[0] == "1435 []"


def test_the_package_itself_is_light():
    """`import ohlcv_assets` loads neither polars nor the client; the client comes when it is asked for."""
    code = """
import sys, ohlcv_assets
light = not {"polars", "pydantic", "ohlcv_assets.client"} & set(sys.modules)
from ohlcv_assets import OhlcvClient
print(light, OhlcvClient.__module__, hasattr(ohlcv_assets, "no_such_name"))
"""
    assert _run(code).strip() == "True ohlcv_assets.client.reader False"
