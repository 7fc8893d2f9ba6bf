"""What holds of every command: what is given as nothing is refused, and never taken for its default; both spellings are offered.

Lives here: these rules. Does not: any command. `--universe "$VERSION"` of a script whose variable is not set would be the universe in
use otherwise, and an empty folder the one where the script runs.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from ohlcv_assets.errors import UsageError


class Command(TyperCommand):
    """A command of the program."""

    # typer brings its own copy of click, whose names are private.
    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """What a shell offers; options in the spelling that was begun, --start-timestamp or --start_timestamp."""
        if not incomplete.startswith("--") or "_" not in incomplete:
            return super().shell_complete(ctx, incomplete)
        offered = super().shell_complete(ctx, incomplete.replace("_", "-"))
        for each in offered:
            each.value = f"--{each.value.removeprefix('--').replace('-', '_')}"
        return offered

    def invoke(self, ctx: Any) -> Any:
        """Run it, unless something is given as nothing."""
        for parameter in self.params:
            given = ctx.params.get(parameter.name)
            values = given if isinstance(given, list | tuple) else [given]
            if any(isinstance(value, str) and not value.strip() for value in values):
                raise _given_as_nothing(parameter)
        return super().invoke(ctx)


def _given_as_nothing(parameter: Any) -> UsageError:
    name = max(parameter.opts, key=len)  # --output rather than -o; an argument has its name alone
    hint = "give a value" if parameter.required else "give a value, or leave it away for the default"
    return UsageError(f"{name} is given as nothing", hint=hint)
