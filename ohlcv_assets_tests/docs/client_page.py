"""The page of the client, made of the client's own signatures and docstrings.

Lives here: the page, and what no docstring says: a short example of each method, and the columns of what it returns. Does not: the
promises (test_client_page.py: nothing of the client is missing; test_pages_that_run.py: the examples, and the columns that they give).
"""

import inspect
import re
from collections.abc import Callable
from typing import Any, get_args

import polars as pl

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import COLUMNS as OF_A_BAR
from ohlcv_assets.bars import VALUES
from ohlcv_assets.client import question
from ohlcv_assets.client.coverage import STATE_COLUMNS
from ohlcv_assets.client.question import READABLE, WINDOWS_MS
from ohlcv_assets_tests.docs.pages import DOCS

CLIENT_PAGE = DOCS / "reference" / "client.md"
Column = tuple[str, str, str]
_ASSETS = {"quote asset": ", in the quote asset", "base asset": ", in the base asset"}

_HEAD = """# The client

`OhlcvClient` reads stored bars, and what is known about them. It asks no exchange, changes nothing, and needs no Dagster.

```python
from ohlcv_assets import OhlcvClient

client = OhlcvClient()
day = {"start": "2025-06-01", "end": "2025-06-02", "market": "spot"}
```

Without an argument it reads the stores that the environment names ([settings](settings.md)); `OhlcvClient(Settings(...))` reads others. A
store is opened when it is first needed. As a context manager (`with OhlcvClient() as client:`) it closes its connection at the end.
Where there is no database all that the lake holds can be read.

Of every method:

- `market` is `spot` or `futures`. Symbols are CCXT unified symbols of the universe, one text or a list, or patterns (`*` any text, `?` one
  character, `[AB]` one of these); None is all of them.
- Times are tz-aware datetimes or ISO 8601 texts with a zone, to the microsecond; a date, also as a text, is its UTC midnight.
  `[start, end)` holds the bars whose interval *starts* in it ([what a bar's time means](../explanation/timestamps.md)).
- Frames are polars; `.to_pandas()` makes pandas of them. Prices are in the quote asset, volumes in the base asset ([the bar](bars.md)).
- An argument that cannot be meant is a `UsageError`, or one of its kinds: `NaiveTime`, `ReversedInterval`, `UnknownMarket`, `UnknownSymbol`.
  A store that does not answer is a `TransientError` ([errors](errors.md)).

The examples below read what the [tutorial](../tutorial/first-bars.md) leaves. This page is written from the program:
`python -m ohlcv_assets_tests.docs.write_client`.
"""

_MS, _US = "Datetime(ms, UTC)", "Datetime(us, UTC)"
_LABEL: list[Column] = [
    ("interval_end", _MS, "end of the bar's minute, which is its label"),
    ("symbol", "String", "CCXT unified symbol"),
]
_ENDS: list[Column] = [
    ("interval_end", _MS, "end of the bar's minute"),
    ("interval_start", _MS, "its start"),
]
_RANGE: list[Column] = [
    ("symbol", "String", "CCXT unified symbol"),
    ("start", _MS, "start of the first minute"),
    ("end", _MS, "end of the last minute: half-open"),
]
_STATE: list[Column] = [
    ("state", "String", "as in [the ledger](ledger.md)"),
    ("cause", "String", "of a gap; null where nothing is to explain"),
]
_PROOF: Column = ("proof", "String", "JSON text of what proves the cause; null where nothing is to explain")
_KNOWN: Column = ("knowledge_timestamp", _US, "when this was stored")


def dtype_text(dtype: Any) -> str:
    """A dtype as the page writes it."""
    return str(dtype).replace("time_unit='", "").replace("', time_zone='", ", ").replace("')", ")")


def _of_a_bar(names: tuple[str, ...]) -> list[Column]:
    found = {column.name: column for column in OF_A_BAR}
    return [
        (name, dtype_text(found[name].dtype), found[name].meaning + _ASSETS.get(found[name].unit or "", ""))
        for name in names
    ]


def on_demand() -> list[Column]:
    """What `columns=` may name beyond what comes by itself."""
    beside: dict[str, Column] = {
        "interval_start": ("interval_start", _MS, "start of the bar's interval"),
        "interval_end": ("interval_end", _MS, "its end"),
        "source": ("source", "String", "`daily` or `streamed`: the store that the bar came from"),
        "state": ("state", "String", "what the ledger says of the minute; null where none speaks"),
    }
    rest = [name for name in READABLE if name not in {*VALUES, "symbol"}]
    return [beside[name] if name in beside else _of_a_bar((name,))[0] for name in rest]


_VALUES = [*_LABEL, *_of_a_bar(VALUES)]
COLUMNS: dict[str, list[Column]] = {
    "read": _VALUES,
    "scan": _VALUES,
    "last": _VALUES,
    "coverage": [
        ("symbol", "String", "CCXT unified symbol"),
        ("day", "Date", "UTC day"),
        ("expected", "Int64", "minutes in which the symbol was listed"),
        ("daily", "Int64", "of them in the lake"),
        ("streamed", "Int64", "of them in the database; null where there is none"),
        ("missing", "Int64", "of them in neither"),
        *(
            (column, "Int64", f"minutes that the ledger calls `{state}`; null where none speaks")
            for state, column in STATE_COLUMNS.items()
        ),
    ],
    "missing_ranges": [*_RANGE, ("minutes", "Int64", "how many"), *_STATE],
    "ledger": [*_RANGE, *_STATE, _PROOF],
    "unverified": [
        *_RANGE,
        ("state", "String", "as in [the ledger](ledger.md), `no_ledger` or `changed_since`"),
        _STATE[1],
        _PROOF,
    ],
    "versions": [
        ("day", "Date", "UTC day"),
        ("known_at", _US, "from then on reads by `as_of` see this content"),
        ("content_hash", "String", "sha256 of keys and values"),
        ("current", "Boolean", "whether it is the day's present content"),
        ("location", "String", "path or URL of the file"),
    ],
    "changes": [
        *_ENDS,
        ("symbol", "String", "CCXT unified symbol"),
        ("kind", "String", "`new`, `changed` or `gone`"),
        ("column", "String", "which column changed; null of a bar that is new or gone"),
        ("before", "Float64", "its value at `since`"),
        ("after", "Float64", "its value at `until`"),
        ("knowledge_timestamp", _US, "when the change was stored"),
        ("reason", "String", "why, of a revision"),
    ],
    "repairs": [
        *_ENDS,
        ("market", "String", "spot or futures"),
        ("symbol", "String", "CCXT unified symbol"),
        ("side", "String", "the side that was changed: `streamed`, `fetched` or `none`"),
        ("decision", "String", "as in [the tables](tables.md)"),
        ("reason", "String", "why, in words"),
        ("sources", "String", "JSON text: each capture with its values and times"),
        ("before", "String", "JSON text: the values before"),
        ("after", "String", "JSON text: the values after"),
        ("run_id", "String", "the run or command that decided"),
        ("repair", "Int64", "counts up"),
        _KNOWN,
    ],
    "findings": [
        ("finding", "Int64", "counts up"),
        ("fingerprint", "String", "the same for the same finding"),
        ("market", "String", "spot or futures; null where it concerns neither"),
        ("kind", "String", "what sort of finding"),
        ("sentence", "String", "what people are told"),
        ("detail", "String", "JSON text: the numbers"),
        ("run_id", "String", "the run that found it"),
        _KNOWN,
    ],
}

EXAMPLES: dict[str, str] = {
    "read": """
bars = client.read("BTC/USDT", **day)
""",
    "scan": """
import polars as pl

query = client.scan("*/USDT", **day)
busiest = query.group_by("symbol").agg(pl.col("quote_volume").sum()).top_k(3, by="quote_volume").collect()
bars = query.filter(pl.col("trade_count") > 1000).collect()
""",
    "last": """
newest = client.last("spot", ["BTC/USDT", "ETH/USDT"])
""",
    "symbols": """
names = client.symbols("spot", at="2025-06-01")
""",
    "days": """
stored = client.days("spot")
""",
    "coverage": """
counted = client.coverage(**day)
""",
    "missing_ranges": """
gaps = client.missing_ranges(**day, source="stitched")
""",
    "insist_on_days": """
client.insist_on_days("BTC/USDT", **day)
""",
    "ledger": """
said = client.ledger(**day, symbols="BTC/USDT")
""",
    "unverified": """
doubtful = client.unverified(**day)
""",
    "versions": """
contents = client.versions("spot", "2025-06-01")
""",
    "changes": """
first = client.last("spot", "BTC/USDT", columns=["knowledge_timestamp"])["knowledge_timestamp"][0]
learnt = client.changes(**day, symbols="BTC/USDT", since=first, source="streamed")
""",
    "repairs": """
decided = client.repairs(**day)
""",
    "findings": """
told = client.findings(since="2025-06-01")
""",
    "qa_result": """
result = client.qa_result("spot", "2025-06-01")
result.is_match, result.summary["bars_equal"], result.differences, result.report
""",
    "close": """
client.close()
""",
}


def methods() -> dict[str, Callable[..., Any]]:
    """Every public method of the client: those for bars first, then what is known about them, then the end."""
    found = {name: item for name, item in inspect.getmembers(OhlcvClient, callable) if not name.startswith("_")}
    return {name: found[name] for name in sorted(found, key=lambda name: [*EXAMPLES, name].index(name))}


def client_page() -> str:
    """The whole page."""
    of = methods()
    rows = "\n".join(f"| [`{name}`](#{name}) | {_summary(method)} |" for name, method in of.items())
    index = f"## All of them\n\n| method | |\n|---|---|\n{rows}\n"
    return "\n".join([_HEAD, index, *(_section(name, method) for name, method in of.items())])


def _section(name: str, method: Callable[..., Any]) -> str:
    parts = _docstring(method)
    text = [f"## `{name}`", f"```\n{_usage(name, method)}\n```", parts["about"]]
    if parameters := _parameters(method, parts.get("Args", "")):
        text.append(parameters)
    if "Returns" in parts:
        text.append(f"Returns: {parts['Returns']}")
    if name in COLUMNS:
        text.append(_table("column", COLUMNS[name]))
    if name == "read":
        text += ["`columns=` may also name:", _table("column on demand", on_demand())]
    if "Raises" in parts:
        text.append(_named_lines("raises", parts["Raises"]))
    return "\n\n".join([*text, f"```python{EXAMPLES[name]}```"]) + "\n"


def _table(heading: str, columns: list[Column]) -> str:
    rows = [f"| `{name}` | {dtype} | {meaning} |" for name, dtype, meaning in columns]
    return "\n".join([f"| {heading} | polars | meaning |", "|---|---|---|", *rows])


def _docstring(method: Callable[..., Any]) -> dict[str, str]:
    """The parts of a docstring: `about`, and what stands below Args, Returns and Raises."""
    text = inspect.getdoc(method) or ""
    pieces = re.split(r"^(Args|Returns|Raises):\n", text, flags=re.MULTILINE)
    named = dict(zip(pieces[1::2], map(inspect.cleandoc, pieces[2::2]), strict=True))
    returns = " ".join(named.get("Returns", "").split())
    return {"about": pieces[0].strip(), **named, **({"Returns": returns} if returns else {})}


def _summary(method: Callable[..., Any]) -> str:
    return _docstring(method)["about"].split("\n\n")[0].replace("\n", " ")


def _named(text: str) -> dict[str, str]:
    """`name: meaning`, a line each, continued on indented lines."""
    joined = re.sub(r"\n\s+", " ", text)
    return dict(line.split(": ", 1) for line in joined.splitlines() if line)


def _named_lines(heading: str, text: str) -> str:
    rows = [f"| `{name}` | {meaning} |" for name, meaning in _named(text).items()]
    return "\n".join([f"| {heading} | when |", "|---|---|", *rows])


def _of(method: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(method).parameters.values())[1:]


def _parameters(method: Callable[..., Any], told: str) -> str:
    meanings = {**_named(told)} if told else {}
    meanings = {"market": "`spot` or `futures`.", "start": "the first moment.", "end": "the one after the last.",
                "symbols": "as in `read`; None for all.", "day": "a date, or a text like 2025-06-01.",
                "at": "a moment; None for every symbol of the version.", "label": "as in `read`.",
                "columns": "as in `read`.", "source": "`daily`, `streamed` or `stitched`."} | meanings  # fmt: skip
    rows = [
        f"| `{p.name}` | {_takes(p)} | {_default(p)} | {meanings[p.name].replace('|', chr(92) + '|')} |"
        for p in _of(method)
    ]
    return "\n".join(["| parameter | takes | default | meaning |", "|---|---|---|---|", *rows]) if rows else ""


def _takes(parameter: inspect.Parameter) -> str:
    """The type of a parameter, its choices spelt out."""
    if parameter.name == "resample":
        return ", ".join(f"`{length}`" for length in WINDOWS_MS)
    names = [part.strip() for part in str(parameter.annotation).split("|") if part.strip() != "None"]
    plain = {"Sequence[str]": "list of str", "Sequence[Source]": "list of str", "Market": "Market"}
    shown = []
    for name in names:
        choices = get_args(getattr(question, name, None))
        shown += [f"`{choice}`" for choice in choices] if choices else [plain.get(name, name)]
    return ", ".join(shown)


def _default(parameter: inspect.Parameter) -> str:
    return "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`".replace("'", '"')


def _usage(name: str, method: Callable[..., Any]) -> str:
    positional = [p.name for p in _of(method) if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_name = [p.name for p in _of(method) if p.kind is p.KEYWORD_ONLY]
    words = [*positional, *(["*", *by_name] if by_name else [])]
    returned = str(inspect.signature(method).return_annotation).strip("'")
    return f"client.{name}({', '.join(words)}) -> {returned.replace('pl.', 'polars.')}"


def schema_of(frame: pl.DataFrame) -> list[tuple[str, str]]:
    """A frame's columns with their dtypes, as the page writes them."""
    return [(name, dtype_text(dtype)) for name, dtype in frame.schema.items()]
