"""The exchange: everything that speaks with it, and nothing that stores.

    open_exchange ──> Exchange ──> fetch_bars    every finished bar of an interval by REST, or an error
    (binance.py)      clock        (fetch.py)
                      listing
                      budget  ───> stream_bars   every bar as it closes by WebSocket, what that misses by REST
                                   (stream.py)

Lives here: ccxt's objects and the distrust of their answers. Does not: the shape of a bar (bars.py), stores
(storage/), or the exchange that we play ourselves (replay/). Importing any module here does not import ccxt.
"""
