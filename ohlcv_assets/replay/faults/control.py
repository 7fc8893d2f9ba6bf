"""Paths that Binance does not have: adding and ending faults while the exchange runs, and reading what was injected.

    GET     /_replay/faults   {"seed": 7, "faults": [every rule that there ever was]}
    POST    /_replay/faults   a list of rules -> {"ids": [their numbers]}; a bad one: 400 {"error": ...}, and none is added
    DELETE  /_replay/faults   ends every rule -> {"ids": [those that ended]}
    GET     /_replay/ledger   what was injected, in order

Lives here: HTTP. Does not: any rule.
"""

from __future__ import annotations

from aiohttp import web

from ohlcv_assets.errors import UsageError
from ohlcv_assets.replay.faults.script import FaultScript


class FaultControl:
    """The control paths of a script of faults.

    Args:
        script: the script.
    """

    def __init__(self, script: FaultScript) -> None:
        self._script = script

    def add_routes(self, app: web.Application) -> None:
        """Put the control paths into the application."""
        app.router.add_get("/_replay/faults", self._rules)
        app.router.add_post("/_replay/faults", self._add)
        app.router.add_delete("/_replay/faults", self._end)
        app.router.add_get("/_replay/ledger", self._ledger)

    async def _rules(self, _request: web.Request) -> web.Response:
        return web.json_response({"seed": self._script.seed, "faults": self._script.rules()})

    async def _add(self, request: web.Request) -> web.Response:
        try:
            return web.json_response({"ids": self._script.add(await request.json())})
        except UsageError as error:
            return web.json_response({"error": error.message, "hint": error.hint}, status=400)
        except ValueError:
            return web.json_response({"error": "send a JSON list of rules"}, status=400)

    async def _end(self, _request: web.Request) -> web.Response:
        return web.json_response({"ids": self._script.end_all()})

    async def _ledger(self, _request: web.Request) -> web.Response:
        return web.json_response(self._script.ledger.entries)
