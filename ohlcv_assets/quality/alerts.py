"""What an alert says: one sentence, the numbers that matter, a link to the page; as JSON that Slack understands.

Lives here: `Alert`, and the message that tells one, several, or many at once. Does not: which findings are new
(alert_memory.py), the way to the webhook (webhook.py), or reading Dagster's events (orchestration/alerts.py).
Everything here is a pure function of its arguments.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote

#: Beyond so many alerts a message is a summary: a person reads ten lines, and no storm.
MOST_TOLD_ONE_BY_ONE = 10
_MOST_GROUPS = 20
_MOST_NUMBERS = 10
# Slack refuses a section beyond 3,000 characters; ten sections of these are read, not scrolled.
_LONGEST_SENTENCE = 600
_LONGEST_TITLE = 150

Number = int | float

#: The numbers that a person looks at first, in this order; others follow by name.
_FIRST_NUMBERS = (
    "bars_missing",
    "bars_differing",
    "bars_duplicate",
    "bars_expected",
    "bars_present",
    "match_pct",
    "coverage_pct",
    "latency_p99_s",
    "days_verified",
    "days_changed",
    "bars_changed",
)
#: Numbers that grow or vary while the finding stays the same: they say how much was looked at, or how long it took.
_NOT_OF_THE_FINDING = frozenset(
    {"bars_expected", "bars_present", "bars_equal", "bars_streamed", "bars_fetched", "bars_checked", "days_verified"}
)
_VARYING_UNITS = ("_pct", "_s", "_ms", "bytes")


class Level(StrEnum):
    """How bad it is."""

    ERROR = "error"
    WARNING = "warning"
    RECOVERED = "recovered"


_SHOWN = {
    Level.ERROR: ":red_circle: ERROR",
    Level.WARNING: ":large_yellow_circle: WARNING",
    Level.RECOVERED: ":large_green_circle: GREEN AGAIN",
}


@dataclass(frozen=True)
class Alert:
    """One thing to tell.

    Attributes:
        fingerprint: the same for the same finding.
        level: how bad it is.
        subject: what it is about, without the partition: `futures daily_qa: streamed_complete`.
        partition: of the subject, or None.
        sentence: what was found.
        numbers: under the names of the metadata.
        link: the page of the UI that shows it.
        market: spot, futures, or None where it concerns no single one.
    """

    fingerprint: str
    level: Level
    subject: str
    partition: str | None
    sentence: str
    numbers: Mapping[str, Number]
    link: str
    market: str | None = None

    @property
    def title(self) -> str:
        """The subject and its partition."""
        return f"{self.subject} {self.partition}" if self.partition else self.subject


def message(alerts: Sequence[Alert]) -> dict[str, Any]:
    """The JSON of one message that tells these alerts: `text` for a notification, `blocks` for the reader.

    Args:
        alerts: at least one, oldest first; beyond `MOST_TOLD_ONE_BY_ONE` the message is a summary.
    """
    many = len(alerts) > MOST_TOLD_ONE_BY_ONE
    blocks = _summary(alerts) if many else [block for alert in alerts for block in _blocks(alert)]
    return {"text": _escaped(_headline(alerts)), "blocks": blocks}


def trial_message(sender: str, link: str) -> dict[str, Any]:
    """The JSON of a message that only says that messages arrive.

    Args:
        sender: who sends it, such as the region.
        link: the UI.
    """
    text = f"ohlcv {sender}: a test. Failed checks and runs will be told here."
    return {"text": _escaped(text), "blocks": [_section(f"{_escaped(text)} <{link}|Open the UI>")]}


def digest_of(numbers: Mapping[str, Number]) -> str:
    """What makes a finding the same finding: its numbers, without those of how much was looked at, and no durations."""
    own = {name: value for name, value in numbers.items() if _is_of_the_finding(name)}
    return fingerprint_of(json.dumps(own, sort_keys=True))


def fingerprint_of(*parts: str) -> str:
    """32 hex digits of these parts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def check_link(ui_url: str, asset: Sequence[str], check: str) -> str:
    """The page of a check in the UI.

    Args:
        ui_url: where people open it.
        asset: the parts of the asset's key.
        check: its name.
    """
    path = "/".join(quote(part, safe="") for part in asset)
    return f"{ui_url.rstrip('/')}/assets/{path}?view=checks&checkDetail={quote(check, safe='')}"


def run_link(ui_url: str, run_id: str) -> str:
    """The page of a run in the UI."""
    return f"{ui_url.rstrip('/')}/runs/{quote(run_id, safe='')}"


def _is_of_the_finding(name: str) -> bool:
    return name not in _NOT_OF_THE_FINDING and not name.endswith(_VARYING_UNITS)


def _headline(alerts: Sequence[Alert]) -> str:
    if len(alerts) == 1:
        (alert,) = alerts
        return _cut(f"{alert.level.upper()} {alert.title}: {alert.sentence}", _LONGEST_SENTENCE)
    return f"{len(alerts):,} findings: {_counts(alerts)}"


def _counts(alerts: Iterable[Alert]) -> str:
    counted = Counter(alert.level for alert in alerts)
    return ", ".join(f"{counted[level]:,} {level}" for level in Level if counted[level])


def _blocks(alert: Alert) -> list[dict[str, Any]]:
    title = f"*{_SHOWN[alert.level]}* {_linked(alert.link, alert.title)}"
    told = [_section(f"{title}\n{_escaped(_cut(alert.sentence, _LONGEST_SENTENCE))}")]
    if alert.numbers:
        told.append({"type": "context", "elements": [{"type": "mrkdwn", "text": _numbers(alert.numbers)}]})
    return told


def _summary(alerts: Sequence[Alert]) -> list[dict[str, Any]]:
    """A line for each check or job, the most frequent first: how often, and over which partitions."""
    groups: dict[tuple[Level, str], list[Alert]] = {}
    for alert in alerts:
        groups.setdefault((alert.level, alert.subject), []).append(alert)
    ordered = sorted(groups.values(), key=len, reverse=True)
    lines = [_group(group) for group in ordered[:_MOST_GROUPS]]
    if len(ordered) > _MOST_GROUPS:
        lines.append(f"and {len(ordered) - _MOST_GROUPS} more checks and jobs")
    return [_section(f"*{_escaped(_headline(alerts))}*"), *(_section(line) for line in lines)]


def _group(group: Sequence[Alert]) -> str:
    partitions = sorted({alert.partition for alert in group if alert.partition})
    over = partitions[0] if len(partitions) == 1 else f"{partitions[0]} to {partitions[-1]}" if partitions else ""
    last = group[-1]
    first_line = f"{_SHOWN[last.level]} {len(group):,} x {_linked(last.link, last.subject)} {_escaped(over)}".rstrip()
    return f"{first_line}\n{_escaped(_cut(last.sentence, _LONGEST_TITLE))}"


def _numbers(numbers: Mapping[str, Number]) -> str:
    order = {name: rank for rank, name in enumerate(_FIRST_NUMBERS)}
    names = sorted(numbers, key=lambda name: (order.get(name, len(order)), name))[:_MOST_NUMBERS]
    return _escaped("  ·  ".join(f"{name} {_number(numbers[name])}" for name in names))


def _number(value: Number) -> str:
    """As a person reads it; a percentage is never rounded up to 100."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if f"{value:.6g}" != "100" or value == 100 else f"{value!r}"


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _linked(link: str, text: str) -> str:
    # A bar would end the address, an angle bracket the link.
    return f"<{link}|{_escaped(_cut(text, _LONGEST_TITLE)).replace('|', '/')}>"


def _escaped(text: str) -> str:
    """As Slack wants it: only these three mean something."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
