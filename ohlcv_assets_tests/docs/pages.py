"""The pages of the documentation, and the pieces of them that a test can hold to something.

Lives here: where pages are, their links, code blocks, commands and tables. Does not: any promise.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")
_PROGRAM = re.compile(r"^\s*(\$ )?(?:[A-Z_]+=\S+ )*(?:\S*\.venv/bin/)?(ohlcv(?: .*)?)$")
# A line of usage, with its placeholders: `ohlcv repair --market TEXT [OPTIONS]`.
_USAGE = re.compile(r"\[|\b(TEXT|NUMBER|FILE|DAY)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block: what its fence says it is, and its text."""

    kind: str
    text: str


def name_of(path: Path) -> str:
    """A page's name in a test's title."""
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(*found) for found in _FENCE.findall(page.read_text("utf-8"))]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def links(page: Path) -> list[str]:
    """What a page links to within the project: `../file.md#heading`."""
    return _LINK.findall(prose(page))


def linked_pages(page: Path) -> set[Path]:
    """The files that a page's links lead to, itself aside."""
    files = (link.partition("#")[0] for link in links(page))
    return {(page.parent / file).resolve() for file in files if file}


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as a link has them after the #."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def program_lines(page: Path) -> Iterator[str]:
    """Every whole `ohlcv ...` that a page's blocks tell the reader to type, with what follows a pipe left out.

    Where a block has prompts, what has none is an answer.
    """
    for block in blocks(page):
        lines = block.text.replace("\\\n", " ").splitlines()
        prompted = any(line.startswith("$ ") for line in lines)
        for found in filter(None, map(_PROGRAM.match, lines)):
            command = found[2].removesuffix(" &").split(" | ")[0].split(" > ")[0]
            if bool(found[1]) is prompted and not _USAGE.search(command):
                yield command


def mentions(page: Path) -> set[str]:
    """Every `ohlcv ...` within the sentences of a page; it may be a part of a command."""
    return {" ".join(found.split()) for found in re.findall(r"`(?:\.venv/bin/)?(ohlcv [^`]+)`", prose(page))}


def rows(page: Path, heading: str) -> list[list[str]]:
    """The rows of every table whose first column has this heading, as lists of cells without their backticks."""
    return [
        [cell.strip().strip("`") for cell in re.split(r" (?<!\\)\| ", line.strip("|"))]
        for table in page.read_text("utf-8").split(f"| {heading} |")[1:]
        for line in takewhile(lambda line: line.startswith("|"), table.splitlines()[2:])
    ]
