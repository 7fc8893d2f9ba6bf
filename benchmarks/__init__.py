"""Long measurements of the whole platform: minutes each, started by hand (`make soak`, `make bench-stream`).

Lives here: programs that start the real servers, let them work, and print one table. Does not: tests, which take
seconds and run at every change (ohlcv_assets_tests/).
"""
