"""Promises of errors.py: one tree, drawn where people look, and no exception of ccxt that is not in its table."""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

from ohlcv_assets import errors
from ohlcv_assets.errors import (
    CCXT_ERRORS,
    Banned,
    ExchangeUnavailable,
    Finding,
    OhlcvError,
    RateLimited,
    Refused,
    TransientError,
    UsageError,
    meaning_of,
)

_PACKAGE = Path(errors.__file__).parent
CLASSES = {
    name: item for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, OhlcvError)
}


def ccxt_classes():
    """Every exception class of ccxt.base.errors, by name."""
    importlib.import_module("ccxt")
    module = sys.modules["ccxt.base.errors"]
    return {
        name: item for name, item in vars(module).items() if inspect.isclass(item) and issubclass(item, Exception)
    }


def drawn_tree():
    """(class, its parent, exit code or None) for every name in the tree of the module's docstring."""
    rows, above = [], []
    for line in inspect.getdoc(errors).splitlines():
        match = re.match(r"^(?P<branches>[│├└─ ]*)(?P<rest>[A-Z].*)$", line)
        if match is None or not (match["branches"].endswith("── ") or match["rest"] == "OhlcvError"):
            continue
        depth = len(match["branches"]) // 4 - 1  # the whole tree is indented by one step
        names = re.match(r"\w+( · \w+)*", match["rest"])[0].split(" · ")
        code = re.search(r" exit ([0-9])$", line)
        above = [*above[:depth], names[0]]
        rows += [(name, above[depth - 1] if depth else None, int(code[1]) if code else None) for name in names]
    return rows


def test_every_error_is_drawn_once_under_its_parent():
    """The tree in the docstring has every class of the module, once, below the class that it derives from."""
    rows = drawn_tree()
    assert sorted(name for name, _, _ in rows) == sorted(CLASSES)
    assert rows[0][:2] == ("OhlcvError", None)
    for name, parent, _ in rows[1:]:
        # Names that share a line share a parent, or derive from one of that line (DayMissing from ObjectMissing).
        assert issubclass(CLASSES[name], CLASSES[parent]), name


def test_the_exit_codes_in_the_tree_are_the_classes_own():
    """Where the tree names an exit code, the class and everything below it has that code."""
    coded = {name: code for name, _, code in drawn_tree() if code is not None}
    assert set(coded) == {"TransientError", "UsageError", "Finding", "Refused"}
    for name, item in CLASSES.items():
        drawn = [code for parent, code in coded.items() if issubclass(item, CLASSES[parent])]
        assert drawn == [item.exit_code] or (name in {"OhlcvError", "PermanentError"} and item.exit_code == 3)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_error_has_an_exit_code_and_a_sentence(name):
    """A process that ends by an error of ours says by its exit code what kind it was: 1 finding, 2 usage, 3 no."""
    item = CLASSES[name]
    assert item.exit_code == (1 if issubclass(item, Finding) else 2 if issubclass(item, UsageError) else 3)
    assert item.transient == issubclass(item, TransientError)
    assert inspect.getdoc(item) != inspect.getdoc(item.__base__)


def test_every_error_class_of_the_package_is_defined_here():
    """No other module of the package defines an error of its own, so that the tree stays whole."""
    alien = [
        f"{path.name}: {node.name}"
        for path in _PACKAGE.rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in CLASSES for base in node.bases)
    ]
    assert alien == []


def test_an_error_says_what_happened_and_what_to_do():
    """The hint follows the message, and without one the message stands alone."""
    assert str(OhlcvError("the lake is dry", hint="wait for rain")) == "the lake is dry\n  try: wait for rain"
    assert str(OhlcvError("the lake is dry")) == "the lake is dry"


def test_a_rate_limit_carries_how_long_to_wait():
    """429 and 418 carry the seconds that the exchange asked for."""
    assert RateLimited("slow down", retry_after_s=1.5).retry_after_s == 1.5
    assert Banned("stop", retry_after_s=120.0, hint="wait").retry_after_s == 120.0
    assert issubclass(Banned, RateLimited)


def test_every_exception_of_ccxt_has_a_meaning():
    """A new exception class in ccxt is found by this test, and so is one that is gone."""
    assert set(ccxt_classes()) == set(CCXT_ERRORS)


def test_the_most_specific_class_decides():
    """A subclass of a known exception means what its nearest known class means."""
    for name, item in ccxt_classes().items():
        specific = type("BrandNew", (item,), {})
        assert meaning_of([parent.__name__ for parent in specific.__mro__]) is CCXT_ERRORS[name]


def test_what_ccxt_calls_an_operation_that_may_be_repeated_is_transient():
    """Every failed operation of ccxt is worth asking again; what it gets only for a key or an order is not."""
    classes = ccxt_classes()
    for name, item in classes.items():
        if issubclass(item, classes["OperationFailed"]):
            assert issubclass(CCXT_ERRORS[name], TransientError), name
        elif issubclass(item, (classes["AuthenticationError"], classes["InvalidOrder"], classes["BadRequest"])):
            assert not CCXT_ERRORS[name].transient, name


def test_what_nobody_knows_is_refused():
    """An exception of no known class is never retried; a broken answer is."""
    assert meaning_of(["KeyError", "LookupError", "Exception", "object"]) is Refused
    assert meaning_of([]) is Refused
    assert CCXT_ERRORS["BadResponse"] is ExchangeUnavailable


def test_errors_can_be_read_without_ccxt():
    """The module imports nothing but the standard library's typing."""
    tree = ast.parse(Path(errors.__file__).read_text("utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "typing"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
