"""Promises of the reference pages: what the code has, the page has, in the code's own words.

A page's tables are read row by row, so that a test fails on a column, invariant, setting or error that is missing
from its page, on one that is gone from the code, and on a meaning, unit, default or exit code that has changed.
"""

import inspect
import re
from itertools import takewhile
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from ohlcv_assets import errors
from ohlcv_assets.bars import COLUMNS, INVARIANTS, VALUES
from ohlcv_assets.client import OhlcvClient
from ohlcv_assets.errors import OhlcvError
from ohlcv_assets.settings import Settings

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_CLASSES = {
    name: item for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, OhlcvError)
}


def page(name):
    """The text of a reference page."""
    return (_DOCS / "reference" / f"{name}.md").read_text("utf-8")


def table(name, heading):
    """The rows below the table header that begins with `heading`, as lists of cells without their backticks."""
    after = page(name).split(f"| {heading} |", 1)[1].splitlines()[2:]
    rows = takewhile(lambda line: line.startswith("|"), after)
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows]


def test_every_column_of_a_bar_is_on_its_page():
    """The page lists the columns in their order, with dtype, SQL type, unit and meaning as the code has them."""
    dtypes = {"Datetime(time_unit='us', time_zone='UTC')": "Datetime(us, UTC)"}
    assert table("bars", "column") == [
        [
            column.name,
            dtypes.get(str(column.dtype), str(column.dtype)),
            column.sql,
            column.unit or "-",
            column.meaning,
        ]
        for column in COLUMNS
    ]
    assert f"from `{VALUES[0]}` to `{VALUES[-1]}`" in page("bars")


def test_every_invariant_is_on_its_page():
    """The page lists every invariant by name, with its sentence."""
    assert table("bars", "invariant") == [[invariant.name, invariant.sentence] for invariant in INVARIANTS]


def test_the_label_conventions_are_on_their_page():
    """The page says which end labels a bar, for the exchange's REST and WebSocket, CCXT, the stores and the client."""
    rows = {row[0]: row[1] for row in table("bars", "where")}
    assert [key for key, label in rows.items() if "12:01, the end" in label] == ["OhlcvClient.read(...)"]
    for name in ("Binance REST", "Binance WebSocket", "CCXT", "this package's database and lake"):
        assert any(key.startswith(name) and "the start" in label for key, label in rows.items()), name
    assert inspect.signature(OhlcvClient.read).parameters["label"].default == "end"


def test_every_setting_is_on_its_page():
    """The page lists the variables in their order, with the description and, where it is a constant, the default."""
    rows = table("settings", "variable")
    assert [row[0] for row in rows] == [f"OHLCV_{name.upper()}" for name in Settings.model_fields]
    for row, field in zip(rows, Settings.model_fields.values(), strict=True):
        assert row[3] == field.description, row[0]
        assert row[2], row[0]
        if field.default is None:
            assert row[1] == "unset", row[0]
        elif field.default is not PydanticUndefined:
            assert row[1] == str(field.default).lower(), row[0]


def test_every_setting_in_seconds_says_so():
    """A variable that ends in _S is in seconds, of the exchange or of ours, by its page."""
    units = {row[0]: row[2] for row in table("settings", "variable")}
    assert all(("seconds" in unit) == name.endswith("_S") for name, unit in units.items())


def test_every_error_class_is_on_its_page():
    """The page lists every class once, with whether it is retried and its exit code, and what to do about it."""
    rows = table("errors", "error")
    assert [row[0] for row in rows] == list(_CLASSES)
    for name, retried, exit_code, meaning, advice in rows:
        assert retried == ("yes" if _CLASSES[name].transient else "no"), name
        assert exit_code == str(_CLASSES[name].exit_code), name
        assert meaning
        assert advice


def test_the_tree_on_the_page_is_the_classes_own():
    """Every class stands in the drawn tree directly below the class that it derives from."""
    drawn = page("errors").split("```")[1].strip("\n").splitlines()
    above, parents = [], {}
    for line in drawn:
        name = re.search(r"\w+", line)
        depth = name.start() // 4
        above = [*above[:depth], name[0]]
        parents[name[0]] = above[depth - 1] if depth else None
    assert parents == {
        name: None if item is OhlcvError else item.__base__.__name__ for name, item in _CLASSES.items()
    }


def test_every_exit_code_is_explained():
    """Every exit code that an error can give is in the page's table, and success is 0."""
    codes = {row[0] for row in table("errors", "code")}
    assert codes == {"0", *(str(item.exit_code) for item in _CLASSES.values())}


@pytest.mark.parametrize("path", sorted((_DOCS / "decisions").glob("*.md")), ids=lambda path: path.stem)
def test_every_decision_says_why(path):
    """A decision record is numbered, and has its context, its decision, its reasons and its consequences."""
    text = path.read_text("utf-8")
    assert re.match(r"[0-9]{4}-[a-z0-9-]+$", path.stem)
    assert text.startswith(f"# {path.stem[:4]}. ")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Why", "Consequences"]
