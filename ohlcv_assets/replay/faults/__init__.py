"""A script of faults for the replay exchange: rules of what goes wrong when, and a ledger of what really did.

The way of a rule, and the module that each step lives in:

    catalogue.py   every fault by name, with its parameters: what a rule may say
    rules.py       a file or a JSON list into rules, or one clear error
    schedule.py    when a rule applies, and the seeded draws
    script.py      the rules in force; asked by the exchange, it lets the modules below break things
    closing.py     closing events that come late, twice, in another order, wrong, or never
    history.py     the bars themselves: halts, listings, late trades, corrections; and the truth that settles at last
    rest.py        how an answer is spoilt                   socket.py   how a WebSocket is broken
    ledger.py      what was injected, written down when it happened

Every time in a rule is the exchange's. The same seed and rules give the same faults to the same requests.
"""
