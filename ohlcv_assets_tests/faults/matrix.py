"""The fault matrix as data: what can go wrong, what must happen then, and where that is shown.

Lives here: one row a fault. Does not: breaking anything (trials.py), or judging and printing (report.py, test_matrix.py).

A row is shown in one of three ways: `Here`, by a trial over real servers; `Elsewhere`, by a test function with that name;
`Later`, not yet, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ohlcv_assets.instruments import Market

FUTURES, SPOT = Market.FUTURES, Market.SPOT
Rules = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Symbols:
    """A trial in which the fault hits two symbols of its own, all the while that a stream runs.

    Attributes:
        market: where.
        rules: faults of the replay exchange, without market, symbols and times.
        again: whether everything is captured a second time afterwards, so that what the exchange restated is found.
    """

    market: Market
    rules: Rules
    again: bool = False


@dataclass(frozen=True)
class Phase:
    """A trial in which the fault hits everything in a market, for a few minutes of a stream.

    Attributes:
        market: where; the phases of one server and market follow each other.
        server: which replay exchange.
        minutes: how long the phase is.
        rules: faults, their times in seconds of the phase; without times: the whole phase.
    """

    market: Market
    server: str
    minutes: int
    rules: Rules


@dataclass(frozen=True)
class Own:
    """A trial that is a function of its own, by its name in trials.py."""

    function: str


@dataclass(frozen=True)
class Elsewhere:
    """A test function of the suite that shows it."""

    test: str


@dataclass(frozen=True)
class Later:
    """Not shown yet, and why."""

    reason: str


@dataclass(frozen=True)
class Row:
    """A fault: its number in the list of faults, its name, what must happen, and where that is shown."""

    number: str
    fault: str
    expected: str
    shown: Symbols | Phase | Own | Elsewhere | Later

    @property
    def injected(self) -> str | None:
        """The rule that the row is about: the last; those before it only make REST necessary."""
        return self.shown.rules[-1]["fault"] if isinstance(self.shown, Symbols | Phase) and self.shown.rules else None


def _withheld(*rules: Mapping[str, Any]) -> Rules:
    """Half of the closing events do not come, so that REST is needed, and REST is broken."""
    return ({"fault": "never_closed", "probability": 0.6}, *rules)


#: Shorter than the time between two answers that bear each other out, and then none for so long that one which a busy machine
#: asked late is not lied to again.
_STUMBLES = {"every": 120, "for_s": 20}


def _rest(fault: str, **parameters: Any) -> Symbols:
    return Symbols(FUTURES, _withheld({"fault": fault, "probability": 0.6, "endpoints": ["klines"], **parameters}))


ROWS: tuple[Row, ...] = (
    Row("1", "process killed between receiving and storing", "the next run fetches what is lacking", Own("killed")),
    Row("2", "process killed inside a transaction", "the whole batch or nothing of it", Elsewhere("test_killed_in_the_middle_of_a_batch_leaves_whole_batches_only")),
    Row("3", "process killed while it writes a day", "the old file or none, never half of one", Elsewhere("test_kill_9_while_writing_leaves_a_whole_day_or_none")),
    Row("4", "process killed after writing, before Dagster knows", "the second run finds the same content", Elsewhere("test_downloading_a_day_again_changes_nothing")),
    Row("5", "SIGTERM", "the run stops after its minute; every finished bar is stored", Own("terminated")),
    Row("6", "database down when the run starts", "bars wait on disk and go in when it is back", Own("database_away")),
    Row("7", "database restarted, once in order, once killed", "connected again, the batch repeated", Own("database_away")),
    Row("8", "acknowledgement of a commit lost", "repeating the batch changes nothing", Elsewhere("test_lost_acknowledgement_is_harmless")),
    Row("9", "database locked for four seconds", "bars wait on disk; capture goes on", Own("database_locked")),
    Row("10", "object store busy (503)", "asked again, but not for ever", Elsewhere("test_a_busy_store_is_asked_again_and_not_for_ever")),
    Row("11", "object store's answer lost", "read back: the same content is a success", Elsewhere("test_a_lost_answer_is_no_conflict")),
    Row("12", "two runs write the same day", "one wins, the other agrees or fails loudly", Elsewhere("test_one_of_many_writers_wins")),
    Row("13", "a day downloaded again with other values", "refused, or the old file is kept beside it", Elsewhere("test_what_is_replaced_is_kept")),
    Row("14a", "WebSocket closed in order", "connected again; the gap is fetched", Phase(SPOT, "cuts", 4, ({"fault": "ws_close", "from": 40, "every": 60},))),
    Row("14b", "WebSocket reset at a minute's end", "connected again; the gap is fetched", Phase(SPOT, "cuts", 4, ({"fault": "ws_reset", "from": 59, "every": 60},))),
    Row("14c", "no WebSocket for 75 s across a minute's end", "the minute comes by REST", Phase(SPOT, "cuts", 4, ({"fault": "ws_refuse", "from": 105, "until": 180},))),
    Row("14d", "events held back for 40 s, then all at once", "taken once; what REST brought first stays", Phase(SPOT, "cuts", 4, ({"fault": "ws_stall", "from": 155, "until": 195, "new_connections": True},))),
    Row("15a", "WebSocket half open", "replaced by the watchdog; REST meanwhile", Phase(FUTURES, "silence", 8, ({"fault": "ws_half_open", "from": 70},))),
    Row("15b", "WebSocket that only answers pings", "replaced by the watchdog; REST meanwhile", Phase(SPOT, "silence", 8, ({"fault": "ws_silent", "from": 70},))),
    Row("15c", "a subscription that dies without a word", "noticed by REST; another connection takes over", Phase(FUTURES, "silence", 6, ({"fault": "ws_drop_subscription", "symbols": 1, "existing": True, "from": 70, "until": 72},))),
    Row("16a", "the exchange announces its end (serverShutdown)", "another connection takes over before it", Phase(FUTURES, "cuts", 4, ({"fault": "ws_server_shutdown", "from": 40, "every": 60, "notice_s": 15},))),
    Row("16b", "a connection's lifetime is over, with notice", "another connection takes over before it", Phase(FUTURES, "cuts", 5, ({"fault": "ws_cut_24h", "lifetime_s": 120, "from": 0, "until": 200, "notice_s": 15},))),
    Row("17", "429 with Retry-After", "every request waits as long as told", Phase(FUTURES, "cuts", 5, ({"fault": "never_closed", "until": 180}, {"fault": "rest_429", "from": 60, "until": 180, "retry_after_s": 30, "endpoints": ["klines"]}))),
    Row("18", "418, banned for a minute", "no request before the ban ends; the WebSocket goes on", Phase(FUTURES, "cuts", 5, ({"fault": "never_closed", "until": 180}, {"fault": "rest_418", "from": 60, "until": 180, "retry_after_s": 60, "endpoints": ["klines"]}))),
    Row("19a", "5xx", "asked again", _rest("rest_5xx")),
    Row("19b", "403 of a firewall", "asked again, but not for ever", _rest("rest_403")),
    Row("19c", "REST connection reset", "asked again", _rest("rest_reset")),
    Row("19d", "REST without an answer", "given up after a while, asked again", _rest("rest_timeout", hang_s=30)),
    Row("20", "error -1001", "asked again", _rest("rest_error_code", code=-1001)),
    Row("20b", "error -1008, overloaded", "asked again", _rest("rest_error_code", code=-1008)),
    Row("21", "truncated body", "asked again", _rest("rest_truncated")),
    Row("22a", "a web page with status 200", "no proof of absence; asked again", _rest("rest_html")),
    Row("22b", "empty body with status 200", "no proof of absence; asked again", _rest("rest_empty")),
    Row("22c", "null with status 200", "no proof of absence; asked again", _rest("rest_null")),
    Row("23a", "a page that lacks its last row", "counted against the grid; asked again", _rest("rest_short_page", **_STUMBLES)),
    Row("23b", "an empty list", "counted against the grid; asked again", _rest("rest_empty_list", **_STUMBLES)),
    Row("24a", "a symbol that is listed meanwhile", "nothing is expected before its listing", Symbols(FUTURES, ({"fault": "list_at", "at": 300},))),
    Row("24b", "a symbol that is delisted meanwhile", "what does not come is named, nothing else", Symbols(FUTURES, ({"fault": "delist_at", "at": 300},))),
    Row("24c", "an unknown symbol (-1121)", "refused before anything is asked", Elsewhere("test_an_unknown_symbol_is_refused_before_anything_is_asked")),
    Row("25a", "spot halted: no bars at all", "named missing after two healthy answers", Symbols(SPOT, ({"fault": "halt", "at": 240, "until": 420},))),
    Row("25b", "futures halted: flat bars without events", "fetched by REST", Symbols(FUTURES, ({"fault": "halt", "at": 240, "until": 420},))),
    Row("26", "unfinished bars delivered", "never stored before they are closed", Elsewhere("test_nothing_unfinished_is_ever_stored")),
    Row("27a", "history restated by the exchange", "the first value stays, the other is a revision", Symbols(FUTURES, ({"fault": "correct", "after_s": 90, "probability": 0.5},), again=True)),
    Row("27b", "closing events with a trade too few", "the first value stays, the other is a revision", Symbols(FUTURES, ({"fault": "late_trade", "probability": 0.5},), again=True)),
    Row("27c", "bars whose closing event never comes", "fetched at T+d", Symbols(SPOT, ({"fault": "never_closed", "probability": 0.5},))),
    Row("27d", "closing events up to 30 s late", "fetched at T+d; what comes later changes nothing", Symbols(SPOT, ({"fault": "late_close", "median_s": 2.0, "tail_s": 30.0},))),
    Row("28a", "closing events delivered three times", "stored once", Symbols(SPOT, ({"fault": "duplicate_close", "copies": 2},))),
    Row("28b", "two runs at once over the same hour", "stored once, no revision", Own("two_at_once")),
    Row("29", "closing events after the next bar's", "the order of arrival changes nothing", Symbols(SPOT, ({"fault": "out_of_order", "probability": 0.5},))),
    Row("30", "NaN, infinity, negative prices, high below low", "refused by the gate, and again by the database", Elsewhere("test_the_database_itself_refuses_a_broken_bar")),
    Row("31", "timestamps in microseconds", "refused", Elsewhere("test_a_row_with_another_time_or_count_is_refused")),
    Row("32", "our machine's clock stepped", "the exchange's clock is not moved", Elsewhere("test_stepping_the_machines_clock_does_not_move_the_exchanges")),
    Row("33", "midnight inside the run", "each bar is in the day of its start", Symbols(FUTURES, ())),
    Row("34", "800 symbols at once", "all in time, within the request weight", Later("a measurement of ten minutes: make bench-stream")),
    Row("35", "disk full", "the error names the path, the old file is whole", Elsewhere("test_a_full_disk_names_the_path_and_harms_nothing")),
    Row("36", "memory short", "a run's memory does not grow with its bars", Later("measured by make bench-stream, with no limit set")),
    Row("37", "a damaged byte in a day", "never read as bars", Elsewhere("test_a_damaged_day_is_never_taken_for_bars")),
    Row("38", "hostile symbol names", "they are only symbols", Elsewhere("test_hostile_symbols_are_only_symbols")),
    Row("39", "daemon down for hours", "the missed hours are started late", Elsewhere("test_hours_that_nobody_watched_are_started_late")),
    Row("40", "both captures equally wrong", "a flat block is pointed out; later restatements by the weekly re-check", Elsewhere("test_a_flat_block_in_both_captures_is_pointed_out")),
)  # fmt: skip
