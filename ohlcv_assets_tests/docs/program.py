"""The program `ohlcv` as its own description says it: what the page of commands and the tests of the docs are made from.

Lives here: every command with its options, the page of them, and whether a line that a page shows would be understood.
Does not: running any command.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from ohlcv_assets.cli import app

COMMANDS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "commands.md"
_HEAD = """# Commands

`ohlcv` is one program. In a checkout it is `.venv/bin/ohlcv`, once any `make` target has set up `.venv`. `ohlcv COMMAND --help` says what
stands here, and `ohlcv --install-completion` teaches your shell to complete it. Settings come from the environment
([settings](settings.md)).

This page is written from the program: `python -m ohlcv_assets_tests.docs.write_commands`.

## Exit codes

Of every command, unless it says more:

| code | meaning |
|---|---|
| 0 | done |
| 1 | a finding: the command worked, and the data are not what they must be |
| 2 | usage: what was asked cannot be meant, and nothing was done |
| 3 | unavailable or refused: the exchange, a store or the machine did not do its part |
| 130 | ended by Ctrl-C; the same command goes on where it ended |

Errors go to standard error and say what to do next ([errors](errors.md)).

Who reads no further, as `| head -1` does, ends no command: it does its work, the rest of what it says goes nowhere, and its exit code is
its own. `ohlcv read` alone ends then, with 0. (A shell tells the exit code of the last command of a pipe: `set -o pipefail` tells ours.)

A PostgreSQL or lake that has not answered yet is given up after three seconds where standard error is a terminal, for a person waits
there; elsewhere, as under cron or systemd, it is waited for as long as a run of Dagster waits, a minute. `OHLCV_COMMAND_PATIENCE_S` says
another time for both. One that has answered is waited for that minute everywhere, and `ohlcv stream` waits for it from the beginning.
`ohlcv --verbose` shows each attempt.

An option or a name that is given as nothing, such as `--universe ""`, is refused and never taken for its default.

Bash takes a colon for the end of a word: symbols such as BTC/USDT:USDT are completed beyond it only where
`COMP_WORDBREAKS=${COMP_WORDBREAKS//:}` stands in `~/.bashrc`.
"""


@dataclass(frozen=True)
class Command:
    """A command that does something: its words after `ohlcv`, and typer's description of it."""

    words: tuple[str, ...]
    described: Any

    @property
    def name(self) -> str:
        """As a person types it."""
        return " ".join(("ohlcv", *self.words))


def program() -> Any:
    """Typer's description of the whole program."""
    return typer.main.get_command(app)


def commands(group: Any = None, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command, groups walked through, in the order of `ohlcv --help`."""
    for name, described in (group or program()).commands.items():
        if hasattr(described, "commands"):
            yield from commands(described, (*words, name))
        else:
            yield Command((*words, name), described)


def commands_page() -> str:
    """The whole page of commands."""
    every = list(commands())
    contents = "\n".join(f"| [`{each.name}`](#{_anchor(each.name)}) | {_first_line(each)} |" for each in every)
    index = f"## All of them\n\n| command | |\n|---|---|\n{contents}\n"
    always = f"## Before any command\n\n{_table(program().params)}\n"
    return "\n".join([_HEAD, index, always, *map(_section, every)])


def understand(line: str) -> None:
    """Parse `ohlcv ...` as the program would, and do nothing; what it would refuse is an exception that says why."""
    group, (_, *tokens) = program(), shlex.split(line, comments=True)
    while tokens and tokens[0] in {"--verbose", "-v"}:
        tokens.pop(0)
    while hasattr(group, "commands"):
        name = tokens.pop(0) if tokens else "nothing"
        if name not in group.commands:
            raise ValueError(f"`ohlcv` has no command {name}")
        group = group.commands[name]
    if tokens != ["--help"]:
        group.make_context(group.name, tokens)


def _section(command: Command) -> str:
    text = f"## `{command.name}`\n\n```\n{_usage(command)}\n```\n\n{_prose(command.described.help)}\n"
    return f"{text}\n{_table(command.described.params)}\n" if command.described.params else text


def _usage(command: Command) -> str:
    parts = [command.name]
    for parameter in command.described.params:
        if _is_argument(parameter):
            parts.append(_metavar(parameter) if parameter.required else f"[{_metavar(parameter)}]")
        elif parameter.required:
            parts.append(f"{parameter.opts[0]} {_metavar(parameter)}")
    optional = any(not p.required and not _is_argument(p) for p in command.described.params)
    return " ".join([*parts, *(["[OPTIONS]"] if optional else [])])


def _prose(text: str) -> str:
    r"""Help as Markdown: a paragraph after \b keeps its lines, and so does what is indented."""
    shown = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.removeprefix("\b\n").splitlines()
        head = lines.pop(0) if lines and lines[0].rstrip(":") == "Examples" else None
        if head:
            shown.append(head)
        if head or paragraph.startswith(("\b\n", " ")):
            shown.append("```\n" + "\n".join(line.strip() for line in lines) + "\n```")
        else:
            shown.append("\n".join(lines))
    return "\n\n".join(shown).replace("```\n\n```\n", "")


def _table(parameters: list[Any]) -> str:
    rows = [
        f"| {', '.join(f'`{name}`' for name in _names(parameter))} | {_value(parameter)} | {_default(parameter)} | "
        f"{(parameter.help or '').replace('|', chr(92) + '|')} |"
        for parameter in parameters
    ]
    return "\n".join(["| option | value | default | meaning |", "|---|---|---|---|", *rows])


def _names(parameter: Any) -> list[str]:
    return [_metavar(parameter)] if _is_argument(parameter) else [*parameter.opts, *parameter.secondary_opts]


def _is_argument(parameter: Any) -> bool:
    return parameter.param_type_name == "argument"


def _metavar(parameter: Any) -> str:
    if _is_argument(parameter):
        return str(parameter.name).upper()
    return _value(parameter)


def _value(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False) or parameter.name.endswith("completion"):
        return "-"
    annotation = parameter.type_descriptor.annotation
    many = bool(getattr(annotation, "__args__", ()))
    inner = annotation.__args__[0] if many else annotation
    kind = {"str": "TEXT", "int": "NUMBER", "float": "NUMBER", "Path": "FILE", "date": "DAY"}
    shown = kind[inner.__name__]
    if parameter.min is not None:
        shown += (
            f", {parameter.min:g} to {parameter.max:g}" if parameter.max is not None else f", from {parameter.min:g}"
        )
    return f"{shown}, once or more" if many else shown


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    given = parameter.default
    return "-" if given is None or given is False or given == [] or callable(given) else f"`{given}`"


def _first_line(command: Command) -> str:
    return str(command.described.help).split("\n\n")[0].replace("\n", " ")


def _anchor(name: str) -> str:
    return name.replace(" ", "-")
