"""The deterministic simulation: the real streaming code, in virtual time, under random faults, one seed a run.

    faults.py     what goes wrong in one run, all of it drawn from one seed
    world.py      the simulated exchange: its truth, and what each channel says of it at a moment
    transport.py  what stands for the network: aiohttp's session, and nothing above it
    loop.py       an event loop whose time jumps, and processes in it that can be killed
    store.py      a database in memory with the contract of the real one
    run.py        one run: streamers, kills and restarts
    verdict.py    what is right and wrong at the end, by the real quality code and by plain counting
    __main__.py   hundreds of seeds and one table

Everything between the session and the store is the product's own code and ccxt's. `python -m
ohlcv_assets_tests.faults.simulation --seed 17` does one run again, to the last event.
"""
