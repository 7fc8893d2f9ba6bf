"""`make bench`: every measurement that takes no quarter of an hour, in one run on one machine, as one Markdown document.

Lives here: the order of the sections, the document, and the exit code. Does not: any measurement (each section's module), or
those that watch the whole platform for minutes (stream_400.py, soak.py, repair.py).

Each line is printed when it is ready; with `--out` the document is written to a file as well, at the end. No time is a failure.
Exit code 1 when a measured way gave other bars than it had to; the other sections are measured nevertheless.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC
from pathlib import Path

import typer

from benchmarks import download, overheads, postgres, reads, size
from benchmarks.common import WrongResult, machine
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import UsageError

Section = Callable[[], Iterable[str]]
#: In this order; the names are those of PARTS=.
SECTIONS: dict[str, tuple[str, Section]] = {
    "reads": (reads.TITLE, reads.run),
    "size": (size.TITLE, size.run),
    "postgres": (postgres.TITLE, postgres.run),
    "overheads": (overheads.TITLE, overheads.run),
    "download": (download.TITLE, download.run),
}


class Document:
    """Lines that are printed at once and kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.wrong: list[str] = []

    def add(self, *lines: str) -> None:
        """Print and keep these lines."""
        for line in lines:
            self.lines.append(line)
            typer.echo(line)
            sys.stdout.flush()

    def section(self, title: str, section: Section) -> None:
        """A section under its heading, and how long it took; a wrong result is said in it."""
        began_s = time.monotonic()
        self.add(f"## {title}", "")
        try:
            for line in section():
                self.add(line)
        except WrongResult as error:
            self.wrong.append(f"{title}: {error}")
            self.add("", f"**WRONG**: {error}")
        self.add("", f"(measured in {time.monotonic() - began_s:.0f} s)", "")


def chosen(parts: str) -> Iterator[tuple[str, Section]]:
    """The sections of these names, in the document's order; all of them for none.

    Raises:
        UsageError: no section of that name.
    """
    names = [name.strip() for name in parts.split(",") if name.strip()] or list(SECTIONS)
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        raise UsageError(f"{', '.join(unknown)}: no part of the bench", hint=f"use {', '.join(SECTIONS)}")
    return (section for name, section in SECTIONS.items() if name in names)


def measured(sections: Iterable[tuple[str, Section]]) -> Document:
    """All of them, one after the other."""
    document, began_s = Document(), time.monotonic()
    now = utc_now().astimezone(UTC)
    document.add(f"# Measured by `make bench`, {now:%Y-%m-%d %H:%M} UTC", "")
    document.add(*(f"- {line}" for line in machine()), f"- before: {_load()}", "")
    for title, section in sections:
        document.section(title, section)
    document.add(f"All measured in {(time.monotonic() - began_s) / 60:.1f} minutes; afterwards: {_load()}.")
    return document


def _load() -> str:
    """How busy the machine is, the measurement itself included: a figure of a busy machine is no figure."""
    return f"load {' '.join(f'{load:.1f}' for load in os.getloadavg())} over 1, 5, 15 minutes"


def main(
    parts: str = typer.Option("", help=f"Only these, separated by commas: {', '.join(SECTIONS)}."),
    out: str = typer.Option("", help="Write the document to this file as well."),
) -> None:
    """Measure, print, and judge the results."""
    try:
        sections = list(chosen(parts))
    except UsageError as error:
        typer.echo(f"{error.message}\n  try: {error.hint}", err=True)
        sys.exit(2)
    document = measured(sections)
    if out:
        Path(out).write_text("\n".join(document.lines) + "\n", "utf-8")
    sys.exit(1 if document.wrong else 0)


if __name__ == "__main__":
    typer.run(main)
