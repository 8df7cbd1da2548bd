"""Looking after the queues: what waits is sent, what has expired is dropped, what is empty goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from snakemq._expiry_timers import ExpiryTimers
from snakemq._sleepers import LockSleeper
from snakemq._wakes import wake
from snakemq.packeter import Packeter
from snakemq.queues import Queue, QueuesManager

__all__ = ["Attendant"]

#: When a storage is read again that could not be, in seconds.
_RETRY: Final = 1.0

#: How long a thread that sends waits for the loop at most, in seconds. The loop may be in
#: a callback.
_PATIENCE: Final = 0.002


class Attendant:
    """Looks at queues in which something has changed. Loop thread only, unless it says else.

    :param packeter: gives time and timers
    :param manager: the queues
    :param send: ``func(name)``; sends what waits for a peer, if it is
        connected, and returns whether it is
    :param send_here: ``func(queue)``; likewise in a thread that has borrowed the stack, and
        returns whether it did
    """

    def __init__(
        self,
        packeter: Packeter,
        manager: QueuesManager,
        send: Callable[[str], bool],
        send_here: Callable[[Queue], bool],
    ) -> None:
        self._packeter = packeter
        self._queues = manager.queues
        self._send = send
        self._send_here = send_here
        self._expiry = ExpiryTimers(packeter, self._expire)
        manager.attend = self.look_soon
        manager.let_loop_look = self.let_loop_look
        self._is_late = False  # it was waited for in vain, and has not looked at anything since
        manager.try_later = self._look_later
        for queue in self._queues.values():
            self._expiry.arm(queue)

    def attend(self, queue: Queue, *, prompt: bool) -> None:
        """There is something to send in a queue that is not dirty. Any thread.

        :param prompt: send it in this thread and now, if the loop sleeps
        """
        try:
            queue.dirty = True
            if not (prompt and self._packeter.run_here(self._send_here, queue)):
                self._packeter.call_soon(self.look, queue)
        except BaseException:
            self._interrupted((queue,))
            raise

    def look_soon(self, queues: Iterable[Queue]) -> None:
        """Something has changed. Any thread.

        :param queues: to be gone through twice if need be: no iterator
        """
        try:
            for queue in queues:
                if not queue.dirty:
                    queue.dirty = True
                    self._packeter.call_soon(self.look, queue)
        except BaseException:
            self._interrupted(queues)
            raise

    def let_loop_look(self, queue: Queue) -> None:
        """Have a look be taken, and wait for that, but not for long. Any thread.

        A thread that does nothing but send leaves the interpreter to others every 5 ms
        only, and the loop needs it several times to send something. So more and more
        would wait here, and the receiver has nothing to do.
        """
        if self._is_late or self._packeter.is_inside_loop():
            return
        looked = LockSleeper()
        self._packeter.call_soon(self._look_and_tell, queue, looked)
        self._is_late = not looked.sleep(_PATIENCE)

    def _look_and_tell(self, queue: Queue, looked: LockSleeper) -> None:
        try:
            self.look(queue)
        finally:
            wake(looked)

    def _interrupted(self, queues: Iterable[Queue]) -> None:
        """Ctrl-C. A queue that is dirty and that nobody looks at would never be sent again."""
        for queue in queues:
            self._packeter.call_soon(self.look, queue)

    def _look_later(self, queue: Queue) -> None:
        """The storage could not be read."""
        if not queue.dirty:
            queue.dirty = True
            self._packeter.call_later(_RETRY, self.look, queue)

    def look(self, queue: Queue) -> None:
        """Do what is to be done."""
        # Cleared first: who pushes from now on asks for another look.
        queue.dirty = self._is_late = False
        # It may have been forgotten while somebody pushed, who was then sent on.
        queue = self._queues.get(queue.name, queue)
        queue.report_drops()
        if not self._send(queue.name):
            self.settle(queue)

    def arrived(self, name: str) -> None:
        """The peer is connected: nothing expires."""
        self._expiry.disarm(name)

    def settle(self, queue: Queue) -> None:
        """The peer is not connected: forget its queue, or look at it again in time."""
        if not queue.connected and not queue.forget():
            self._expiry.arm(queue)

    def _expire(self, queue: Queue) -> None:
        queue.expire()
        self.settle(queue)

    def close(self) -> None:
        """Nothing is to be done any more."""
        self._expiry.clear()
