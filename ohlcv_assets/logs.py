"""Logs: structured lines on standard error, so that standard output is a command's answer and nothing else.

Lives here: the one way to get a logger. Does not: deciding for a program that embeds the package: whoever has configured
structlog before the first import keeps their configuration.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

__all__ = ["get_logger", "show_from"]


def get_logger() -> Any:
    """The package's logger; keyword arguments of its methods become fields of the line."""
    return structlog.get_logger("ohlcv_assets")


def show_from(level: int) -> None:
    """Show lines of this level of `logging` and above, and hide the others."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level), logger_factory=_to_stderr)


def _to_stderr(*_name: str) -> structlog.PrintLogger:
    # Asked for at each first use, because a test or a person may have put another stream there since.
    return structlog.PrintLogger(sys.stderr)


if not structlog.is_configured():
    show_from(logging.INFO)
