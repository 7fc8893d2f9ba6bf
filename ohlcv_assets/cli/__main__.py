"""`python -m ohlcv_assets.cli` is the program `ohlcv`."""

from ohlcv_assets.cli import main

main()
