"""A real shell that a page's commands are typed into, one after the other, and what it answered beside what the page shows.

Lives here: the shell, a page's console blocks as steps, and how shown and real output are compared. Does not: any promise.

What differs from run to run is compared by its form alone: seconds, moments of our own clock, and ports. A line of `...` on a
page stands for any number of lines, and `$NAME` for a variable of the shell.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ohlcv_assets_tests.docs.pages import Block, blocks

_DONE = "ohlcv-docs-done"
#: The first line of a block that is to be saved: the file's name, as a comment.
_FILE = re.compile(r"(?:#|--) (\w+\.(?:py|sql))\n")
_VARYING = (
    (re.compile(r"\b\d+(\.\d+)? (s|ms)\b"), "N s"),
    (re.compile(r"\b20(2[6-9]|[3-9]\d)-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?Z?"), "<now>"),
    # How fast the machine is decides in which minute a stream begins, and how its minutes go.
    (re.compile(r"2025-06-0[12]T(23:[45]\d|00:\d\d)Z"), "<minute>"),
    (re.compile(r"^<minute>  .*"), "<a minute of the stream>"),
    (re.compile(r"\b\d+ by websocket, \d+ by rest\b|reconnects \d+|request weight \d+"), "<channels>"),
    (re.compile(r"\b3\d,\d{3} bars, \d+ requests, weight \d+"), "<cost>"),
)


@dataclass(frozen=True)
class Step:
    """A command of a page, and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What the shell said to a step, and with which exit code."""

    step: Step
    output: str
    code: int


def steps(block: Block) -> Iterator[Step]:
    """The steps of a ```console block: `$ command`, continued after a backslash, then its answer."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = re.sub(r"\\\n", "\0", part).partition("\n")
        yield Step(command.replace("\0", "\\\n"), tuple(line for line in shown.splitlines() if line))


class Shell:
    """A bash that stays open; what it and its background jobs start ends with `close`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, step: Step, timeout_s: float = 120.0) -> Answer:
        """Type a command, and wait for its answer; one that takes too long is ended with everything else."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        alarm = threading.Timer(timeout_s, self.close)
        alarm.start()
        try:
            self._process.stdin.write(f"{{ {step.command}\n}} < /dev/null\ncode=$?; echo; echo {_DONE} $code\n")
            self._process.stdin.flush()
            said: list[str] = []
            for line in self._process.stdout:
                if line.startswith(f"{_DONE} "):
                    return Answer(step, "".join(said), int(line.split()[1]))
                said.append(line)
        finally:
            alarm.cancel()
        raise AssertionError(
            f"the shell ended, or was ended after {timeout_s:g} s, in: {step.command}\n{''.join(said)}"
        )

    def close(self) -> None:
        """End the shell and whatever it started in the background."""
        with suppress(ProcessLookupError):  # everything of it may have ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def follow(
    page: Path, shell: Shell, folder: Path, ports: Mapping[str, str], until: str | None = None
) -> list[Answer]:
    """Do what a page tells, in order: save each block that begins with the name of a file, type each ```console block.

    Args:
        page: the page.
        shell: in which to type.
        folder: where the files are saved; the shell's own.
        ports: the page's ports, and the free ones to use in their place.
        until: a command; the block that begins with it, and all after, are left out.
    """
    answers: list[Answer] = []
    for block in blocks(page):
        text = block.text
        for named, free in ports.items():
            text = text.replace(named, free)
        if file := _FILE.match(text):
            (folder / file[1]).write_text(text)
        if block.kind == "console":
            todo = list(steps(Block(block.kind, text)))
            if until is not None and todo[0].command == until:
                break
            answers += [shell.run(step) for step in todo]
    return answers


def mismatch(answer: Answer, environment: Mapping[str, str]) -> str | None:
    """What an answer has otherwise than the page shows; None where it is as shown."""
    shown = [_constant(os.path.expandvars(_of(line, environment))) for line in answer.step.shown]
    said = [_constant(line.rstrip()) for line in answer.output.splitlines() if line.strip()]
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line.rstrip()) + "\n" for line in shown)
    pattern = pattern.replace(re.escape("..."), ".*")
    if re.fullmatch(pattern, "".join(f"{line}\n" for line in said)):
        return None
    return "\n".join([f"$ {answer.step.command}", "shown:", *shown, "said:", *said])


def _of(line: str, environment: Mapping[str, str]) -> str:
    return re.sub(r"\$([A-Z_]+)", lambda name: environment.get(name[1], name[0]), line)


def _constant(line: str) -> str:
    for varying, form in _VARYING:
        line = varying.sub(form, line)
    return line
