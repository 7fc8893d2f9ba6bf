"""`python -m ohlcv_assets_tests.faults`: run every trial and print the matrix; exit code 1 when something is lost."""

import asyncio
import logging
import sys

from ohlcv_assets import logs
from ohlcv_assets_tests.faults.report import table
from ohlcv_assets_tests.faults.stage import stage
from ohlcv_assets_tests.faults.trials import try_everything

if __name__ == "__main__":
    logs.show_from(logging.CRITICAL)
    with stage() as servers:
        found = asyncio.run(try_everything(servers))
    print(table(found))  # noqa: T201
    sys.exit(any(f.lost or f.duplicated or f.wrong or f.false_alarms for f in found.values()))
