"""Every fault that the replay exchange can inject, by name, with its parameters: what a rule may say.

Lives here: `FAULTS`, the one table; rules are checked by it, and the reference page is tested against it. Does not: how
a fault is made (closing.py, history.py, rest.py, socket.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a rule of this fault is applied to."""

    MOMENT = "moment"  # happens at `from`, and again every `every` seconds
    CONNECTION = "connection"  # lies on connections for as long as the rule applies
    REQUEST = "request"  # decided for each REST request
    BAR = "bar"  # decided for each bar, by its start
    HISTORY = "history"  # changes which bars there are


class _Required:
    """Stands for a default where there is none."""

    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()


@dataclass(frozen=True)
class Parameter:
    """One parameter of a fault: its type by example of its default, its bounds, its meaning.

    Attributes:
        type: number, whole, flag, text or texts.
        default: what holds when a rule does not say; `REQUIRED` when it must.
        choices: the texts that are allowed; empty for any.
        least: lowest number allowed.
        most: highest number allowed.
    """

    name: str
    type: str
    default: object
    meaning: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Fault:
    """One fault: what it looks like to a client, and what a rule may say of it."""

    name: str
    kind: Kind
    meaning: str
    parameters: tuple[Parameter, ...] = ()
    by_symbol: bool = True
    needs: tuple[str, ...] = ()
    channel: str = "websocket"


ENDPOINTS = ("ping", "time", "exchangeInfo", "klines", "ticker/24hr")
_COUNT = Parameter("count", "whole", None, "inject it at most this many times; null: no limit", least=1)
_ANY_ENDPOINT = Parameter("endpoints", "texts", ENDPOINTS, "which requests", choices=ENDPOINTS)
_KLINES = Parameter("endpoints", "texts", ("klines",), "which requests", choices=ENDPOINTS)
_NEW_TOO = Parameter("new_connections", "flag", False, "true: connections opened meanwhile suffer as well")
_NOTICE = Parameter(
    "notice_s", "number", 10.0, "seconds between `serverShutdown` and the end; 0: no event, no notice", least=0
)
_RETRY = Parameter("retry_after_s", "whole", None, "Retry-After; null: until the rule's end, or 10", least=1)
_LATE = Parameter("delay_s", "number", 62.0, "how much later than usual", least=60)


def _rest(name: str, meaning: str, *parameters: Parameter, endpoints: Parameter = _ANY_ENDPOINT) -> Fault:
    return Fault(name, Kind.REQUEST, meaning, (*parameters, endpoints, _COUNT), channel="rest")


def _whole_market(name: str, kind: Kind, meaning: str, *parameters: Parameter, needs: tuple[str, ...] = ()) -> Fault:
    return Fault(name, kind, meaning, parameters, by_symbol=False, needs=needs)


_TABLE: Sequence[Fault] = (
    _whole_market(
        "ws_close", Kind.MOMENT, "every connection is closed in good order",
        Parameter("code", "whole", 1000, "the close code", least=1000, most=4999),
    ),
    _whole_market("ws_reset", Kind.MOMENT, "every connection ends with a TCP reset"),
    _whole_market(
        "ws_half_open", Kind.CONNECTION, "the sockets stay open, but nothing is read or written any more, not even a pong", _NEW_TOO,
    ),
    Fault("ws_silent", Kind.CONNECTION, "pongs and acks come, events do not; they are lost", (_NEW_TOO,)),
    Fault("ws_stall", Kind.CONNECTION, "events are held back, and all come at once when it ends", (_NEW_TOO,)),
    _whole_market(
        "ws_refuse", Kind.CONNECTION, "an outage: connections are cut, new ones are refused",
        Parameter("how", "text", "reset", "by a TCP reset, by HTTP 503, or by a close (1013) right after the handshake", choices=("reset", "status", "close")),
        Parameter("cut", "flag", True, "whether the open connections end with a TCP reset when it begins"),
    ),
    _whole_market(
        "ws_cut_24h", Kind.CONNECTION, "a connection is closed when it reaches an age",
        Parameter("lifetime_s", "number", REQUIRED, "the age in seconds", least=0), _NOTICE,
    ),
    _whole_market("ws_server_shutdown", Kind.MOMENT, "the `serverShutdown` event, then the close (1001)", _NOTICE),
    Fault(
        "ws_drop_subscription", Kind.CONNECTION, "a subscription is acked and listed, and delivers nothing",
        (Parameter("existing", "flag", False, "true: subscriptions that there are when it begins die as well"),),
    ),
    _whole_market(
        "ws_message_rate", Kind.CONNECTION, "a client that sends more messages a second is closed (1008)",
        Parameter("messages_a_second", "whole", REQUIRED, "how many it may send", least=0),
    ),
    Fault("never_closed", Kind.BAR, "the bar's event with `x: true` never comes"),
    Fault(
        "late_close", Kind.BAR, "the event with `x: true` comes late (lognormal)",
        (
            Parameter("median_s", "number", 0.2, "half come within this", least=0.001),
            Parameter("tail_s", "number", 30.0, "999 in 1,000 come within this", least=0.001),
            Parameter("never", "number", 0.0001, "share that never comes", least=0, most=1),
        ),
    ),
    Fault(
        "duplicate_close", Kind.BAR, "the event with `x: true` comes again",
        (
            Parameter("copies", "whole", 1, "how many times more", least=1, most=10),
            Parameter("delay_s", "number", 0.5, "seconds between them", least=0),
        ),
    ),
    Fault("out_of_order", Kind.BAR, "the event with `x: true` comes after the next bar's", (_LATE,)),
    Fault(
        "late_trade", Kind.BAR, "a trade is counted late: for some seconds after the bar's end REST serves it with fewer trades, then the true bar",
        (
            Parameter("settle_s", "number", 5.0, "seconds after the bar's end until REST serves the true bar", least=0),
            Parameter("missing", "number", 0.05, "share of the minute whose trades are not counted yet", least=0.001, most=0.9),
            Parameter("event", "text", "early", "which values the event with `x: true` carries", choices=("early", "final")),
        ),
    ),
    _rest("rest_429", "429 with Retry-After and code -1003", _RETRY),
    _rest("rest_418", "418, banned, with Retry-After and code -1003", _RETRY),
    _rest(
        "rest_5xx", "a status from 500 to 599 with an HTML page",
        Parameter("status", "whole", 503, "the status", least=500, most=599),
    ),
    _rest("rest_403", "the firewall's 403 with an HTML page"),
    _rest(
        "rest_timeout", "no answer at all",
        Parameter("hang_s", "number", None, "seconds until the connection is reset; null: until the client gives up", least=0),
    ),
    _rest("rest_reset", "a TCP reset instead of an answer"),
    _rest(
        "rest_truncated", "a body shorter than its Content-Length, then the end",
        Parameter("share", "number", 0.5, "share of the body that is sent", least=0, most=0.99), endpoints=_KLINES,
    ),
    _rest("rest_html", "200 with an HTML page", endpoints=_KLINES),
    _rest("rest_empty", "200 without a body", endpoints=_KLINES),
    _rest("rest_null", "200 with `null`", endpoints=_KLINES),
    _rest(
        "rest_short_page", "a page of klines without some of its finished rows",
        Parameter("drop", "whole", 1, "how many rows are left out", least=1),
        Parameter("where", "text", "end", "which", choices=("start", "middle", "end")), endpoints=_KLINES,
    ),
    _rest("rest_empty_list", "200 with `[]` where there are klines", endpoints=_KLINES),
    _rest(
        "rest_error_code", "an error object with a code of Binance",
        Parameter("code", "whole", REQUIRED, "-1000, -1001, -1003, -1007, -1008, -1015, -1016, -1121 or any other", most=-1),
        Parameter("status", "whole", None, "the HTTP status; null: the one that Binance sends with this code", least=200, most=599),
        endpoints=_KLINES,
    ),
    Fault(
        "clock_offset_ms", Kind.REQUEST, "the time that REST tells is off",
        (Parameter("offset_ms", "whole", REQUIRED, "how far ahead it is; negative: behind"),),
        by_symbol=False, channel="rest",
    ),
    Fault(
        "halt", Kind.HISTORY, "nobody trades: spot has no bar at all for these minutes, futures has flat ones without volume",
        (Parameter("status", "text", "BREAK", "what exchangeInfo of spot says meanwhile"),),
        needs=("from", "until"), channel="exchange",
    ),
    Fault(
        "list_at", Kind.HISTORY, "the symbols are listed at `from`: no bar starts before",
        needs=("from", "symbols"), channel="exchange",
    ),
    Fault(
        "delist_at", Kind.HISTORY, "the symbols are delisted at `from`: no bar starts after, unless they come back at `until`",
        (
            Parameter("flat", "flag", False, "true: futures goes on with flat bars without volume"),
            Parameter("gone", "flag", False, "true: exchangeInfo does not list them any more; klines of their past are still answered"),
        ),
        needs=("from", "symbols"), channel="exchange",
    ),
    Fault(
        "correct", Kind.BAR, "history is restated: after a while REST serves another bar, with one trade more and a higher high",
        (Parameter("after_s", "number", 300.0, "seconds after the bar's end", least=0),),
        channel="exchange",
    ),
)  # fmt: skip

FAULTS: dict[str, Fault] = {fault.name: fault for fault in _TABLE}
