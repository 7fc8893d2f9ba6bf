"""Rules: what goes wrong, where and when, as a person or a test writes it down, checked word by word.

Lives here: `Rule`, and reading rules from YAML, from JSON, or from Python's own lists. Does not: which faults there are
(catalogue.py), or when a rule applies (schedule.py). A bad rule is one `UsageError` that names the rule and the field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from ohlcv_assets.errors import OhlcvError, UsageError
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.faults.catalogue import FAULTS, REQUIRED, Fault, Parameter
from ohlcv_assets.timestamps import day_start_ms, iso, parse_time, to_ms

_HINT = "docs/reference/faults.md lists every fault with its parameters"
_COMMON = ("fault", "market", "symbols", "from", "until", "every", "for_s", "probability")
#: How long each turn of a rule with `every` lasts when it does not say: one bar.
TURN_MS = 60_000


@dataclass(frozen=True)
class Rule:
    """One rule, checked.

    Attributes:
        id: its number, from 1, in the order in which rules were added; part of every seeded draw.
        fault: what goes wrong.
        market: where; None for both markets.
        symbols: the exchange's names; None for all.
        from_ms: UNIX ms on the exchange's clock from which it applies; None until it is added.
        until_ms: until when, exclusive; None for ever.
        every_ms: it applies anew after every such period, each time for `for_ms`; None: all the time, or once.
        for_ms: how long each turn lasts; None: a minute with `every`, else until its end.
        probability: of each moment, connection, request, subscription or bar that it could hit.
        parameters: the fault's own, defaults filled in.
    """

    id: int
    fault: Fault
    market: Market | None
    symbols: frozenset[str] | None
    from_ms: int | None
    until_ms: int | None
    every_ms: int | None
    for_ms: int | None
    probability: float
    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The fault's name."""
        return self.fault.name

    @property
    def start_ms(self) -> int:
        """UNIX ms from which it applies; 0 while it does not say."""
        return self.from_ms or 0

    def __getitem__(self, parameter: str) -> Any:
        return self.parameters[parameter]

    def in_market(self, market: Market | None) -> bool:
        """Whether it concerns a market."""
        return self.market is None or self.market is market

    def concerns(self, market: Market | None, symbol: str | None) -> bool:
        """Whether it concerns a symbol, by the exchange's name; a rule for some symbols never concerns None."""
        return self.in_market(market) and (self.symbols is None or symbol in self.symbols)

    def as_json(self) -> dict[str, Any]:
        """The rule as it can be written down again, times in ms."""
        return {
            "fault": self.name,
            "market": self.market,
            "symbols": None if self.symbols is None else sorted(self.symbols),
            "from": self.from_ms,
            "until": self.until_ms,
            "every": _seconds(self.every_ms),
            "for_s": _seconds(self.for_ms),
            "probability": self.probability,
            **self.parameters,
        }


def _seconds(duration_ms: int | None) -> float | None:
    return None if duration_ms is None else duration_ms / 1000


def read_rules(path: Path) -> list[Rule]:
    """The rules of a YAML or JSON file: a list, or a mapping with the list under `faults`.

    Raises:
        UsageError: no such file, no YAML, or a rule that cannot be meant.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", hint="give a file of rules with --faults"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{path} is neither YAML nor JSON: {error}", hint=_HINT) from error
    rules = document.get("faults") if isinstance(document, dict) else document
    try:
        return parse_rules(rules if rules is not None else [])
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from error


def parse_rules(rules: object, first_id: int = 1) -> list[Rule]:
    """The rules that a list of mappings means.

    Args:
        rules: what JSON or YAML gave.
        first_id: the first rule's number; the others follow.

    Raises:
        UsageError: names the rule by its place in the list, from 1, its fault, and the field.
    """
    if not isinstance(rules, list):
        raise UsageError("faults are a list of rules", hint='write [{"fault": "ws_reset"}]')
    return [_parse(rule, place, first_id + place - 1) for place, rule in enumerate(rules, 1)]


def _parse(rule: object, place: int, rule_id: int) -> Rule:
    where = f"rule {place}"
    try:
        if not isinstance(rule, dict):
            raise UsageError("is no mapping of fields")
        fault = _fault(rule.get("fault"))
        where = f"rule {place} ({fault.name})"
        return _checked(rule, fault, rule_id)
    except OhlcvError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint or _HINT) from error


def _checked(rule: Mapping[str, Any], fault: Fault, rule_id: int) -> Rule:
    known = [*_COMMON, *(parameter.name for parameter in fault.parameters)]
    unknown = [str(name) for name in rule if name not in known]
    if unknown:
        raise UsageError(f"has no field {unknown[0]!r}", hint=f"its fields are {', '.join(known)}")
    absent = [name for name in fault.needs if rule.get(name) is None]
    if absent:
        raise UsageError(f"needs the field {absent[0]!r}")
    from_ms, until_ms = _time(rule, "from"), _time(rule, "until")
    if from_ms is not None and until_ms is not None and until_ms < from_ms:
        raise UsageError(f"the field 'until' is {iso(until_ms)}, before 'from'")
    every_s = _number(rule, "every", least=0.001)
    for_s = _number(rule, "for_s", least=0.001)
    probability = _number(rule, "probability", least=0, most=1)
    parameters = {each.name: _parameter(rule, each) for each in fault.parameters}
    if fault.name == "late_close" and parameters["tail_s"] < parameters["median_s"]:
        raise UsageError("the field 'tail_s' is below 'median_s'")
    return Rule(
        id=rule_id,
        fault=fault,
        market=_market(rule),
        symbols=_symbols(rule, fault),
        from_ms=from_ms,
        until_ms=until_ms,
        every_ms=None if every_s is None else round(every_s * 1000),
        for_ms=None if for_s is None else round(for_s * 1000),
        probability=1.0 if probability is None else probability,
        parameters=parameters,
    )


def _fault(name: object) -> Fault:
    if name is None:
        raise UsageError("needs the field 'fault'")
    if not isinstance(name, str) or name not in FAULTS:
        raise UsageError(
            f"the field 'fault' is {name!r}, which is no fault", hint=f"choose one of {', '.join(FAULTS)}"
        )
    return FAULTS[name]


def _market(rule: Mapping[str, Any]) -> Market | None:
    market = rule.get("market")
    if market is None:
        return None
    if market not in [each.value for each in Market]:
        raise UsageError(f"the field 'market' is {market!r}, and must be spot, futures or null")
    return Market(market)


def _symbols(rule: Mapping[str, Any], fault: Fault) -> frozenset[str] | None:
    symbols = rule.get("symbols")
    if symbols is None:
        return None
    if not fault.by_symbol:
        raise UsageError("the field 'symbols' is not for this fault: it concerns a whole market")
    if not isinstance(symbols, list) or not symbols or not all(isinstance(each, str) for each in symbols):
        raise UsageError(f"the field 'symbols' is {symbols!r}, and must be a list like [BTCUSDT], or null")
    return frozenset(symbols)


def _time(rule: Mapping[str, Any], name: str) -> int | None:
    """A time of a rule in UNIX ms; YAML makes datetimes of some texts by itself."""
    value = rule.get(name)
    try:
        match value:
            case None:
                return None
            case datetime():
                return to_ms(value)
            case date():
                return day_start_ms(value)
            case str():
                return parse_time(value)
            case int() if not isinstance(value, bool):
                return value
    except UsageError as error:
        raise UsageError(f"the field {name!r}: {error.message}", hint=error.hint) from error
    raise UsageError(
        f"the field {name!r} is {value!r}, and must be a time like 2025-06-01T12:00Z, or UNIX milliseconds"
    )


def _number(
    rule: Mapping[str, Any], name: str, least: float | None = None, most: float | None = None
) -> float | None:
    value = rule.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"the field {name!r} is {value!r}, and must be a number")
    if (least is not None and value < least) or (most is not None and value > most):
        bounds = " and ".join(
            f"{word} {bound:g}" for word, bound in (("at least", least), ("at most", most)) if bound is not None
        )
        raise UsageError(f"the field {name!r} is {value!r}, and must be {bounds}")
    return float(value)


def _parameter(rule: Mapping[str, Any], parameter: Parameter) -> Any:
    value, name = rule.get(parameter.name), parameter.name
    if value is None:
        if parameter.default is REQUIRED:
            raise UsageError(f"needs the field {name!r}: {parameter.meaning}")
        return parameter.default
    match parameter.type:
        case "number":
            return _number(rule, name, parameter.least, parameter.most)
        case "whole":
            number = _number(rule, name, parameter.least, parameter.most)
            if not isinstance(value, int):
                raise UsageError(f"the field {name!r} is {value!r}, and must be a whole number")
            return int(number or 0)
        case "flag":
            if not isinstance(value, bool):
                raise UsageError(f"the field {name!r} is {value!r}, and must be true or false")
            return value
        case "text":
            return _texts([value], parameter)[0]
        case _:
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise UsageError(f"the field {name!r} is {value!r}, and must be a list")
            return _texts(value, parameter)


def _texts(values: Iterable[object], parameter: Parameter) -> tuple[str, ...]:
    texts: list[str] = []
    for value in values:
        if not isinstance(value, str) or (parameter.choices and value not in parameter.choices):
            allowed = " or ".join(parameter.choices) or "a text"
            raise UsageError(f"the field {parameter.name!r} is {value!r}, and must be {allowed}")
        texts.append(value)
    return tuple(texts)


def refuse_unknown_symbols(rules: Iterable[Rule], played: Mapping[Market, Iterable[str]]) -> None:
    """Check the symbols of rules against those that are played.

    Raises:
        UsageError: names the first that is in no market of its rule.
    """
    known = {market: frozenset(names) for market, names in played.items()}
    for rule in rules:
        there = frozenset().union(*(names for market, names in known.items() if rule.in_market(market)))
        unknown = sorted((rule.symbols or frozenset()) - there)
        if unknown:
            raise UsageError(
                f"rule {rule.id} ({rule.name}): the field 'symbols' names {unknown[0]}, which is not played",
                hint="name symbols as Binance does: BTCUSDT",
            )
