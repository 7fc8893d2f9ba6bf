"""Virtual time: an event loop whose clock jumps to the next timer, and processes in it that can be killed.

Lives here: `VirtualLoop`, `Process`, and `virtual_time`, which lets every clock that the product reads follow the
loop. Does not: anything about exchanges or bars. No thread, no socket and no sleep is real, so that a run depends on its
seed and on nothing else.
"""

import asyncio
import itertools
import random
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from unittest.mock import patch

import ohlcv_assets.clock

#: How long a call in another thread takes, in virtual seconds, before and after its work is done.
_THREAD_S = (0.002, 0.003)
#: So many turns of the loop without the time moving on are a loop without end.
_MOST_TURNS = 200_000
#: Each turn takes a moment, as it does on a machine: who waits for less than the clock can show must not wait for ever.
_TURN_S = 1e-6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Stuck(Exception):
    """Everybody waits for somebody, or somebody works and never waits."""


class Process:
    """What a kill takes away: every callback that began in it.

    Attributes:
        alive: once it is not, no line of the process runs.
        cut_off: it was killed: whatever its clean-up tries to do, nothing outside must take it.
        parked: the callbacks that a dead process cannot run.
        tasks: all that it ever started.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.cut_off = False
        self.parked: list[tuple[Callable[..., object], tuple[Any, ...], Context | None]] = []
        self.tasks: list[asyncio.Task[Any]] = []


#: The process that the running code belongs to; None for the world.
PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class _Task(asyncio.Task):  # type: ignore[type-arg]
    """A task whose place in a set does not depend on its address in memory."""

    _numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(self._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class _Jump(selectors.SelectSelector):
    """Waits for no file: waiting for a time is being there."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        self._turns = 0 if timeout > 0 else self._turns + 1
        if self._turns > _MOST_TURNS:
            raise Stuck(f"{_MOST_TURNS} turns without a pause")
        self.now_s += max(_TURN_S, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, with processes.

    Attributes:
        thread_pause_s: asked before each call in a thread for seconds to add; a slow disk or database.
    """

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.thread_pause_s: Callable[[], float] = lambda: 0.0
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def time(self) -> float:
        """Virtual seconds."""
        return self._jump.now_s

    def start(self, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that belongs to a process, with all that it starts."""
        context = copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(work, context=context)

    def kill(self, process: Process) -> None:
        """From now on, as after `kill -9`, no line of it runs, not even of what it would do when it is cancelled."""
        process.alive, process.cut_off = False, True
        for handle in [*self._ready, *self._scheduled]:
            if not handle.cancelled() and handle._context.get(PROCESS) is process:
                process.parked.append((handle._callback, handle._args, handle._context))
                handle.cancel()

    def bury(self, process: Process) -> None:
        """Let a killed process run again to be cancelled; its surroundings must take nothing from it any more."""
        process.alive = True
        for callback, arguments, context in process.parked:
            self.call_soon(callback, *arguments, context=context)
        process.parked.clear()

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        """As asyncio does; what belongs to a dead process is put aside."""
        return self._put_aside(callback, args, context) or super().call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        """As asyncio does; what belongs to a dead process is put aside."""
        return self._put_aside(callback, args, context) or super().call_at(when, callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Call the function in this very thread, a moment of virtual time later, and tell its result another one later."""
        future = self.create_future()

        def tell(set_it: Callable[[Any], None], value: object) -> None:
            if not future.done():
                set_it(value)

        def call() -> None:
            try:
                outcome = (future.set_result, func(*args))
            except Exception as error:  # noqa: BLE001  a thread's error belongs to whoever waits for it
                outcome = (future.set_exception, error)
            self.call_later(_THREAD_S[1], tell, *outcome)

        self.call_later(_THREAD_S[0] + self.thread_pause_s(), call)
        return future

    def _put_aside(self, callback: Any, args: tuple[Any, ...], context: Context | None) -> asyncio.Handle | None:
        owner = PROCESS.get() if context is None else context.get(PROCESS)
        if owner is None or owner.alive:
            return None
        owner.parked.append((callback, args, context or copy_context()))
        return asyncio.TimerHandle(self.time(), callback, args, self, context)

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> _Task:
        task = _Task(work, loop=loop, **options)
        context = options.get("context")
        owner = PROCESS.get() if context is None else context.get(PROCESS)
        if owner is not None:
            owner.tasks.append(task)
        return task

    # The loop needs no way to be woken from another thread: there is none.
    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = None
        self._internal_fds = 0

    def _close_self_pipe(self) -> None:
        pass


@contextmanager
def virtual_time(loop: VirtualLoop, epoch_s: float, seed: int) -> Iterator[None]:
    """Let every clock of this interpreter follow the loop, and seed what draws from `random`.

    Args:
        loop: whose time it is.
        epoch_s: what the machine's wall clock says when the loop's time is 0, in UNIX seconds.
        seed: of the module `random`, whose state is put back at the end.
    """

    class Datetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return (_EPOCH + timedelta(seconds=epoch_s + loop.time())).astimezone(tz)

    state = random.getstate()
    random.seed(seed)
    with ExitStack() as patches:
        patches.callback(random.setstate, state)
        for name, clock in (
            ("monotonic", loop.time),
            ("time", lambda: epoch_s + loop.time()),
            ("time_ns", lambda: round((epoch_s + loop.time()) * 1e9)),
        ):
            patches.enter_context(patch.object(time, name, clock))
        patches.enter_context(patch.object(ohlcv_assets.clock, "datetime", Datetime))
        yield
