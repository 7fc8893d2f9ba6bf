"""Promises about commands in the documentation: every command and option is on its page, and what pages tell to type exists."""

import re
from pathlib import Path

import pytest

from ohlcv_assets_tests.docs.pages import PAGES, mentions, name_of, program_lines
from ohlcv_assets_tests.docs.program import COMMANDS_PAGE, commands, commands_page, program, understand

_TEXT = COMMANDS_PAGE.read_text("utf-8")


def test_the_page_of_commands_is_what_the_program_says() -> None:
    """Every command, option, default and exit code is on the page in the program's own words, and nothing else is."""
    assert commands_page() == _TEXT, "write it anew: python -m ohlcv_assets_tests.docs.write_commands"


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: command.name)
def test_every_command_has_its_section_with_all_options(command) -> None:
    """A command's own section names every option that can be typed, and explains each."""
    section = _TEXT.split(f"\n## `{command.name}`\n")[1].split("\n## ")[0]
    assert command.described.help.split()[0] in section
    for parameter in command.described.params:
        names = [parameter.name.upper()] if parameter.param_type_name == "argument" else parameter.opts
        assert all(f"`{name}`" in section for name in names)
        assert parameter.help, f"{command.name} {names[0]} has no help"


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: command.name)
def test_every_command_has_examples_and_exit_codes(command) -> None:
    """The help of each command shows how it is typed, in lines that the program understands, and what its exit codes mean."""
    examples = command.described.help.split("Examples:\n")[1].split("\n\n")[0].splitlines()
    assert any(line.strip().startswith(command.name) for line in examples)
    for line in examples:
        for each in re.findall(r"ohlcv [^|$()]*", line):
            understand(each.strip().rstrip('"'))
    assert re.search(r"Exit\s+code:\s+0 ", command.described.help)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ohlcv nothing", "no command nothing"),
        ("ohlcv db", "no command nothing"),
        ("ohlcv verify --sinse 30d", "(?i)no such option: --sinse"),
        ("ohlcv repair --market spot", "Missing parameter: day"),
        ("ohlcv stream --market spot --hours x", "valid number"),
        ("ohlcv repair --market spot --day 2025-06-01 --hour 24", "less than or equal to 23"),
        ("ohlcv universe diff v7.3", "Missing parameter: latter"),
    ],
)
def test_a_line_that_the_program_would_refuse_is_noticed(line: str, why: str) -> None:
    """Whatever is unknown, lacks or is no such value is noticed by the parser of the tests below."""
    with pytest.raises(Exception, match=why):
        understand(line)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_a_page_tells_to_type_is_understood(page: Path) -> None:
    """Each `ohlcv ...` in a code block parses against the program: command, options, required ones, types of values."""
    for line in program_lines(page):
        understand(line)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_a_sentence_mentions_exists(page: Path) -> None:
    """Each `ohlcv ...` within a sentence names a command that there is, and options that it has."""
    for mention in mentions(page):
        _exists(mention)


def _exists(mention: str) -> None:
    group, words = program(), mention.split()[1:]
    while words and hasattr(group, "commands") and re.match(r"[a-z]", words[0]):
        assert words[0] in group.commands, mention
        group = group.commands[words.pop(0)]
    known = {name for parameter in group.params for name in parameter.opts} | {"--help"}
    asked = {word.replace("_", "-") for word in words if word.startswith("--")}
    assert asked <= known, mention
