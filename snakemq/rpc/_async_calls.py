"""Methods that are ``async def``: from a worker into an asyncio loop and back.

asyncio is imported by who has a loop; others need not wait for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

    from snakemq.rpc.context import CurrentCall

__all__ = ["AsyncItems", "Carried", "InLoop"]


#: How often who waits for an asyncio loop looks whether it still runs, in seconds.
_LOOK_INTERVAL: Final = 2.0


class Carried(Exception):
    """Carries what would end the asyncio loop: SystemExit and KeyboardInterrupt.

    :ivar error: what was raised
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class InLoop:
    """Something that is awaited in the asyncio loop of another thread.

    It runs in the context of the thread that makes this.

    :param awaitable: what is awaited
    :ivar future: done when it has ended, and not before that when it is cancelled
    :raises RuntimeError: the loop is closed
    """

    def __init__(self, awaitable: Awaitable[Any], loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._awaitable = awaitable
        coroutine = self._run(awaitable)
        try:
            self.future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except BaseException:
            coroutine.close()
            self._close()
            raise
        self.future.add_done_callback(self._ended)

    async def _run(self, awaitable: Awaitable[Any]) -> Any:
        import asyncio

        self._task = asyncio.current_task()
        try:
            return await awaitable
        except (SystemExit, KeyboardInterrupt) as exc:
            raise Carried(exc) from None

    def _ended(self, future: Future[Any]) -> None:
        if self._task is None:
            self._close()

    def _close(self) -> None:
        """It was never begun, of which Python would warn."""
        close = getattr(self._awaitable, "close", None)
        if close is not None:
            close()

    def result(self) -> Any:
        """Wait for its end, or for that of the loop.

        :raises RuntimeError: the loop has ended before
        :raises Carried: it raised what would end the loop
        :raises BaseException: whatever else it raised
        """
        while not self.future.done():
            wait([self.future], _LOOK_INTERVAL)
            if not self.future.done() and not self._loop.is_running():
                raise RuntimeError("the asyncio loop has ended")
        return self.future.result()

    def cancel(self) -> None:
        """Have it cancelled, as :meth:`asyncio.Task.cancel` does."""
        if self._task is None:
            self.future.cancel()
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._task.cancel)


class AsyncItems:
    """The items of an asynchronous iterator, for a thread that may wait for them.

    :param call: the wait ends when it is cancelled
    """

    def __init__(
        self, items: AsyncIterator[Any], loop: asyncio.AbstractEventLoop, call: CurrentCall
    ) -> None:
        self._items = items
        self._loop = loop
        self._waiting: InLoop | None = None
        self._is_cancelled = False
        call.on_cancel(self._cancel)

    def _cancel(self) -> None:
        self._is_cancelled = True
        waiting = self._waiting
        if waiting is not None:
            waiting.cancel()

    def __iter__(self) -> AsyncItems:
        return self

    def __next__(self) -> Any:
        self._waiting = waiting = InLoop(anext(self._items), self._loop)
        if self._is_cancelled:
            waiting.cancel()
        try:
            return waiting.result()
        except StopAsyncIteration:
            raise StopIteration from None
        except Carried as carried:
            raise carried.error from None

    def close(self) -> None:
        close = getattr(self._items, "aclose", None)
        if close is not None and self._loop.is_running():
            try:
                InLoop(close(), self._loop).result()
            except Carried as carried:
                raise carried.error from None
