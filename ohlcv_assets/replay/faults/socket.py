"""How WebSockets are broken: closed, reset, frozen, silenced, held back, refused, aged, deaf to a subscription.

Lives here: what is done to connections when a rule's turn begins, while it lasts, and when it ends. Does not: the protocol
(websocket.py), or closing events of single bars (closing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.faults.desk import Desk
from ohlcv_assets.replay.faults.rules import Rule
from ohlcv_assets.replay.faults.schedule import Turn, drawn, turn_at, turns_from
from ohlcv_assets.replay.hub import Connection
from ohlcv_assets.replay.websocket import GOING_AWAY, server_shutdown


class _Silence:
    """A gate that loses every event of the rule's symbols, or keeps them for later; its first is written down."""

    def __init__(self, connection: Connection, rule: Rule, note: Callable[[], None]) -> None:
        self._connection = connection
        self._rule = rule
        self._note = note
        self._kept: list[str] | None = [] if rule.name == "ws_stall" else None
        self._noted = False

    def takes(self, stream: str, text: str) -> bool:
        """Whether the event is withheld."""
        if not self._rule.concerns(self._connection.market, symbol_of(stream)):
            return False
        if not self._noted:
            self._noted = True
            self._note()
        if self._kept is not None:
            self._kept.append(text)
        return True

    def release(self) -> None:
        """Send at once what was kept."""
        for text in self._kept or ():
            self._connection.push(text)


class SocketFaults:
    """The rules that concern whole connections.

    Args:
        desk: the rules in force and what they act on.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._suffering: dict[int, dict[Connection, _Silence | None]] = {}  # by rule
        self._draws = 0
        self._begins: dict[str, Callable[[Rule, Connection], None]] = {
            "ws_close": self._close,
            "ws_reset": self._reset,
            "ws_half_open": self._freeze,
            "ws_silent": self._silence,
            "ws_stall": self._silence,
            "ws_refuse": self._cut,
            "ws_cut_24h": self._plan_old_age,
            "ws_server_shutdown": self._shut_down,
            "ws_drop_subscription": self._drop,
        }

    def begin(self, rule: Rule) -> None:
        """A rule was added: its turns are planned."""
        if rule.name in self._begins:
            self._plan(rule, turns_from(rule, self._desk.clock.now_ms()))

    def end(self, rule: Rule) -> None:
        """A rule or its turn is over: connections that suffer from it recover."""
        for connection, silence in self._suffering.pop(rule.id, {}).items():
            connection.gates.pop(rule.id, None)
            connection.thaw(rule.id)
            if silence is not None:
                silence.release()

    def opened(self, connection: Connection) -> None:
        """A connection was opened: rules that concern new ones apply to it."""
        for rule in self._applying("ws_half_open", "ws_silent", "ws_stall", "ws_cut_24h", market=connection.market):
            if rule.name == "ws_cut_24h" or rule["new_connections"]:
                self._begins[rule.name](rule, connection)

    def refusal(self, market: Market) -> str | None:
        """How a new connection is refused, if it is."""
        for rule in self._applying("ws_refuse", market=market):
            if self._drawn(rule):
                self._note(rule, market, f"refused by {rule['how']}")
                return str(rule["how"])
        return None

    def loses(self, market: Market, stream: str) -> bool:
        """Whether a new subscription is acked and never delivered."""
        for rule in self._applying("ws_drop_subscription", market=market):
            if rule.concerns(market, symbol_of(stream)) and self._drawn(rule):
                self._note(rule, market, "acked", symbol_of(stream))
                return True
        return False

    def message_limit(self, market: Market) -> int | None:
        """Messages a second that a client may send; None for the usual limit."""
        limits = [int(rule["messages_a_second"]) for rule in self._applying("ws_message_rate", market=market)]
        return min(limits, default=None)

    def too_many_messages(self, market: Market) -> None:
        """A connection is closed by `message_limit`."""
        for rule in self._applying("ws_message_rate", market=market)[:1]:
            self._note(rule, market, "closed with 1008")

    def _applying(self, *names: str, market: Market) -> list[Rule]:
        now_ms = self._desk.clock.now_ms()
        return [
            rule
            for rule in self._desk.named(*names)
            if rule.in_market(market) and (turn := turn_at(rule, now_ms)) and self._turn_drawn(rule, turn)
        ]

    def _turn_drawn(self, rule: Rule, turn: Turn) -> bool:
        """Whether a turn happens; where each attempt has its own draw, every turn does."""
        return rule.name in ("ws_refuse", "ws_drop_subscription") or drawn(self._desk.seed, rule, turn.number)

    def _drawn(self, rule: Rule) -> bool:
        self._draws += 1
        return drawn(self._desk.seed, rule, "attempt", self._draws)

    def _plan(self, rule: Rule, turns: Iterator[Turn]) -> None:
        turn = next(turns, None)
        if turn is not None:
            self._desk.agenda.schedule(turn.start_ms, partial(self._turn, rule.id, turns, turn))

    def _turn(self, rule_id: int, turns: Iterator[Turn], turn: Turn, _now_ms: int) -> None:
        rule = self._desk.rules[rule_id]
        if turn_at(rule, turn.start_ms) is None:
            return  # it was ended before
        if turn.end_ms is not None:  # before the next turn is planned, which may begin at that moment
            self._desk.agenda.schedule(turn.end_ms, lambda _now_ms: self.end(rule))
        self._plan(rule, turns)
        if self._turn_drawn(rule, turn):
            for connection in self._connections(rule):
                self._begins[rule.name](rule, connection)

    def _connections(self, rule: Rule) -> list[Connection]:
        return [each for each, market in self._desk.connections.items() if rule.in_market(market)]

    def _note(self, rule: Rule, market: Market, detail: str = "", symbol: str | None = None) -> None:
        self._desk.ledger.note(rule, self._desk.clock.now_ms(), market, symbol=symbol, detail=detail)

    def _close(self, rule: Rule, connection: Connection) -> None:
        self._note(rule, connection.market, f"closed with {rule['code']}")
        connection.hang_up(rule["code"])

    def _reset(self, rule: Rule, connection: Connection) -> None:
        self._note(rule, connection.market, "reset")
        connection.cut()

    def _cut(self, rule: Rule, connection: Connection) -> None:
        if rule["cut"]:
            self._reset(rule, connection)

    def _freeze(self, rule: Rule, connection: Connection) -> None:
        self._note(rule, connection.market, f"{len(connection.streams)} streams")
        connection.freeze(rule.id)
        self._suffering.setdefault(rule.id, {})[connection] = None

    def _silence(self, rule: Rule, connection: Connection) -> None:
        silence = _Silence(connection, rule, partial(self._note, rule, connection.market, "first event withheld"))
        connection.gates[rule.id] = silence
        self._suffering.setdefault(rule.id, {})[connection] = silence

    def _shut_down(self, rule: Rule, connection: Connection) -> None:
        self._announce(rule, connection, self._desk.clock.now_ms() + 1000 * rule["notice_s"])

    def _plan_old_age(self, rule: Rule, connection: Connection) -> None:
        due_ms = connection.opened_ms + 1000 * rule["lifetime_s"]
        notice_ms = due_ms - 1000 * rule["notice_s"]
        self._desk.agenda.schedule(notice_ms, partial(self._grow_old, rule.id, connection, due_ms))

    def _grow_old(self, rule_id: int, connection: Connection, due_ms: float, now_ms: int) -> None:
        rule = self._desk.rules[rule_id]
        if turn_at(rule, now_ms) is not None:
            self._announce(rule, connection, due_ms)

    def _announce(self, rule: Rule, connection: Connection, due_ms: float) -> None:
        """Say that a connection is about to end, and end it when that is due."""
        if connection.socket.closed:
            return
        if rule["notice_s"]:
            connection.push(server_shutdown(self._desk.clock.now_ms()))
            # A client that obeys has closed the connection before it ends: the notice is what it was given.
            self._note(rule, connection.market, "announced")
        self._desk.agenda.schedule(due_ms, partial(self._part, rule, connection))

    def _part(self, rule: Rule, connection: Connection, _now_ms: int) -> None:
        if not connection.socket.closed:
            self._note(rule, connection.market, f"closed with {GOING_AWAY}")
            connection.hang_up(GOING_AWAY)

    def _drop(self, rule: Rule, connection: Connection) -> None:
        if not rule["existing"]:
            return
        for stream in list(connection.streams):
            symbol = symbol_of(stream)
            if rule.concerns(connection.market, symbol) and self._drawn(rule) and connection.lose(stream):
                self._note(rule, connection.market, "died", symbol)


def symbol_of(stream: str) -> str:
    """The exchange's name of a stream's symbol."""
    return stream.partition("@")[0].upper()
