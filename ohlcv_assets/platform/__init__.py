"""Starting and stopping the platform's servers: `ohlcv up`, `ohlcv demo`, `ohlcv ui`.

Lives here: child processes, the three servers of Dagster, and what is asked of them over HTTP. Does not: any import
of dagster (its servers are programs to us), or the embedded PostgreSQL's supervisor (storage/local_postgres.py).
"""
