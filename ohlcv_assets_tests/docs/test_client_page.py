"""Promises of the client's page: every public method, parameter, choice and column is on it, in the client's own words."""

import inspect

import pytest

from ohlcv_assets import OhlcvClient
from ohlcv_assets.client.question import READABLE, WINDOWS_MS
from ohlcv_assets_tests.docs.client_page import CLIENT_PAGE, COLUMNS, EXAMPLES, client_page, methods

_TEXT = CLIENT_PAGE.read_text("utf-8")


def _section(name: str) -> str:
    return _TEXT.split(f"\n## `{name}`\n")[1].split("\n## ")[0]


def test_the_page_of_the_client_is_what_the_client_says() -> None:
    """Methods, parameters, defaults and meanings are on the page as signatures and docstrings have them, and nothing else is."""
    assert client_page() == _TEXT, "write it anew: python -m ohlcv_assets_tests.docs.write_client"


def test_every_method_has_an_example_and_its_columns() -> None:
    """No public method is without an example, and none that returns a frame without a table of its columns."""
    assert set(EXAMPLES) == set(methods())
    frames = {name for name, item in methods().items() if "Frame" in str(inspect.signature(item).return_annotation)}
    assert set(COLUMNS) == frames


@pytest.mark.parametrize("name", list(methods()))
def test_every_parameter_is_explained(name: str) -> None:
    """A method's own section has a row for each parameter, with its choices."""
    section = _section(name)
    parameters = list(inspect.signature(getattr(OhlcvClient, name)).parameters)[1:]
    assert [p for p in parameters if f"\n| `{p}` |" not in section] == []
    assert f"client.{name}(" in section.split("```python\n")[1]


def test_every_column_and_length_that_can_be_asked_for_is_named() -> None:
    """The section of `read` names each readable column and each length of a longer bar."""
    section = _section("read")
    assert [name for name in READABLE if f"| `{name}` |" not in section] == []
    assert [length for length in WINDOWS_MS if f"`{length}`" not in section] == []
