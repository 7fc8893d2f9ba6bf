"""How `ohlcv --help` looks: commands grouped by what they are for; drawn on a terminal, plain text elsewhere.

Lives here: the names of the groups, and the plain form. Does not: which command is in which group (cli/__init__.py), or any
command's own help, which is its docstring.
"""

from __future__ import annotations

import sys
from typing import Any, Final, Literal

from typer.core import TyperGroup

PLATFORM: Final = "Platform"
CAPTURE: Final = "Capture"
QUALITY: Final = "Quality"
READ: Final = "Read"
SET_UP: Final = "Set-up"

#: So many characters of a command's first sentence are shown; longer than any.
_WHOLE_SENTENCE = 500


def markup() -> Literal["rich"] | None:
    """Frames and colours where somebody looks at a terminal; None, plain text, in a pipe or a file."""
    return "rich" if sys.stdout is not None and sys.stdout.isatty() else None


class PanelledGroup(TyperGroup):
    """A program whose plain help keeps the groups of commands, and cuts no sentence."""

    # typer brings its own copy of click, whose names are private.
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group, in the order in which they first appear."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None) or "Commands"
                panels.setdefault(str(panel), []).append((name, command.get_short_help_str(_WHOLE_SENTENCE)))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)
