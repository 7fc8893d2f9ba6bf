"""A local exchange that speaks Binance's REST and WebSocket protocol, from recorded or generated bars, at any speed.

The way of a bar, and the module that each step lives in:

    truth.py      the exchange's final bars, a frame a market       (a file: derive.py; made up: generate.py)
    tape.py       the same bars as arrays, looked up by symbol and minute
    partial.py    what an unfinished bar looks like                  script.py   what is decided of it; faults/: what may go wrong
    wire.py       bars as decimal text: REST rows and WebSocket events
    klines.py     which rows a request gets                          pump.py     when each event is due (agenda.py waits)
    rest.py       Binance's REST paths (weights.py, listing.py)      websocket.py  connections, subscriptions, limits
    server.py     both on one host and port, on the clock of clock.py; control.py for tests

Nothing here is imported by the capture code: it meets this package over the network only, as it meets Binance.
"""
