"""Promises of the page of faults: every fault that can be injected is on it, with its parameters as the code has them."""

import json
import re
from itertools import takewhile
from pathlib import Path

import pytest

from ohlcv_assets.replay.faults.catalogue import FAULTS, REQUIRED
from ohlcv_assets.replay.faults.ledger import Ledger
from ohlcv_assets.replay.faults.rules import parse_rules

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "faults.md").read_text("utf-8")


def rows(first_column):
    """The rows of every table whose first column has this heading, as lists of cells."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for table in PAGE.split(f"| {first_column} |")[1:]
        for line in takewhile(lambda line: line.startswith("|"), table.splitlines()[2:])
    ]


def test_every_fault_is_on_the_page():
    """The page lists exactly the faults that there are, each once, with its sentence."""
    assert {name.strip("`"): meaning for name, meaning, _ in rows("fault")} == {
        fault.name: fault.meaning for fault in FAULTS.values()
    }
    assert len(rows("fault")) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)
def test_every_parameter_is_on_the_page(fault):
    """A fault's row lists its parameters in their order, with default, meaning and allowed words."""
    cell = next(parameters for name, _, parameters in rows("fault") if name == f"`{fault.name}`")
    written = (
        [] if cell == "-" else [re.match(r"`(\w+)` \((.*?)\): (.*)", each).groups() for each in cell.split("<br>")]
    )
    assert [name for name, _, _ in written] == [parameter.name for parameter in fault.parameters]
    for (_, default, meaning), parameter in zip(written, fault.parameters, strict=True):
        expected = "required" if parameter.default is REQUIRED else f"`{json.dumps(parameter.default)}`"
        assert default == expected
        assert meaning.startswith(parameter.meaning)
        if parameter.type == "text":
            assert all(f"`{word}`" in meaning for word in parameter.choices)


def test_every_field_of_a_rule_and_of_the_ledger_is_on_the_page():
    """The fields that every rule may have, and those of a ledger's entry, are the page's."""
    ledger, rule = Ledger(), parse_rules([{"fault": "ws_reset"}])[0]
    ledger.note(rule, 0, None)
    fields = [row[0].strip("`") for row in rows("field")]
    assert fields == [*rule.as_json(), *ledger.entries[0]]


def test_the_example_on_the_page_is_valid(tmp_path):
    """The rules that the page shows can be read."""
    from ohlcv_assets.replay.faults.rules import read_rules

    file = tmp_path / "faults.yaml"
    file.write_text(PAGE.split("```yaml\n")[1].split("```")[0])
    assert [rule.name for rule in read_rules(file)] == ["ws_reset", "late_close", "rest_429", "halt"]
