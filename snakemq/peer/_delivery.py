"""What became of a message: the handles that ``send(..., track=True)`` returns."""

from __future__ import annotations

import enum
import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, cast

from snakemq.callbacks import Callback, CallbackOwner
from snakemq.limits import DropReason
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.peer._waiting import Changes

__all__ = ["Deliveries", "Delivery", "DeliveryState"]

#: Where the handle hangs on its message.
_ATTRIBUTE: Final = "_delivery"


class DeliveryState(enum.Enum):
    """How far a message is, in this order. The last three are final."""

    #: it waits in memory
    QUEUED = "queued"
    #: it waits in the storage
    STORED = "stored"
    #: it was handed to the system; nobody knows yet whether it arrived
    SENT = "sent"
    #: the callbacks of the receiver have run
    ACKNOWLEDGED = "acknowledged"
    #: its time to live was over
    EXPIRED = "expired"
    #: it was not queued, or it left the queue for another reason
    DROPPED = "dropped"


_RANKS: Final = {
    DeliveryState.QUEUED: 0,
    DeliveryState.STORED: 1,
    DeliveryState.SENT: 2,
    DeliveryState.ACKNOWLEDGED: 3,
    DeliveryState.EXPIRED: 3,
    DeliveryState.DROPPED: 3,
}


class Delivery:
    """What becomes of one message. Thread-safe.

    Made by ``send(..., track=True)`` and its like.

    It ends in one of these states, and :attr:`is_final` is true then:

    * ``ACKNOWLEDGED``.
    * ``EXPIRED`` or ``DROPPED``. It is not sent (again). If it was sent before
      on a connection that broke, it may have arrived all the same.
    * ``SENT``, if it is not persistent and the receiver is a 1.6 peer, which
      acknowledges no such message; or if this peer was stopped before the
      acknowledgement came.
    * ``STORED``, if this peer was stopped before the acknowledgement came. The
      next one that opens the storage sends it (again).

    :ivar ident: identifier of the receiver
    :ivar uuid: identifier of the message
    """

    __slots__ = ("_callbacks", "_deliveries", "_is_final", "_is_stored", "_state", "ident", "uuid")

    def __init__(self, deliveries: Deliveries, ident: str, uuid: bytes, is_stored: bool) -> None:
        self.ident = ident
        self.uuid = uuid
        self._deliveries = deliveries
        self._state = DeliveryState.QUEUED
        self._is_final = False
        #: once it is queued
        self._is_stored = is_stored
        self._callbacks: list[Callable[[Delivery], object]] = []

    @property
    def state(self) -> DeliveryState:
        """How far it is. After a broken connection it may be sent again: it stays ``SENT``."""
        return self._state

    @property
    def is_final(self) -> bool:
        """Whether the state does not change any more."""
        return self._is_final

    def wait(
        self, state: DeliveryState = DeliveryState.ACKNOWLEDGED, timeout: float | None = None
    ) -> DeliveryState:
        """Wait until this state or a later one is reached, or nothing more will come.

        So look at what is returned: waiting for ``ACKNOWLEDGED`` may end in
        ``EXPIRED``.

        :param timeout: seconds at most; ``None``: for ever
        :return: the state that it has then
        :raises TimeoutError: not in time
        :raises RuntimeError: in a callback, which would wait for its own thread
        """
        self._deliveries.wait(lambda: self._has_reached(state), timeout, self)
        return self._state

    def _has_reached(self, state: DeliveryState) -> bool:
        return self._is_final or _RANKS[self._state] >= _RANKS[state]

    def add_done_callback(self, func: Callable[[Delivery], object]) -> None:
        """Have ``func(delivery)`` called when the state is final.

        At once if it is; else from the loop's thread. What it raises is logged
        and reported to ``on_error``.
        """
        self._deliveries.add_callback(self, func)

    def __repr__(self) -> str:
        final = "" if self._is_final else "..."
        return f"<Delivery to {self.ident!r} {self._state.value}{final} uuid={self.uuid.hex()}>"


class Deliveries:
    """The deliveries of a peer that are not final.

    :param changes: is notified of new states
    :param prepare_to_wait: called by who is going to wait; raises where nobody may
    :param owner: to whom failing callbacks are reported
    """

    def __init__(
        self, changes: Changes, prepare_to_wait: Callable[[], object], owner: CallbackOwner
    ) -> None:
        self._changes = changes
        self._prepare_to_wait = prepare_to_wait
        self._callback = Callback[[]](owner, "Delivery.add_done_callback")
        # For states and callbacks; held for a moment only.
        self._lock = threading.Lock()
        self._open: set[Delivery] = set()
        # Those in a storage, whose message may be read anew: by receiver and
        # identifier, of which there may be several.
        self._stored: dict[tuple[str, bytes], list[Delivery]] = {}
        self._closed = False

    # Any thread.

    def track(self, ident: str, message: Message, *, has_storage: bool) -> Delivery:
        """Watch a message that nobody else has seen yet."""
        is_stored = has_storage and bool(message.flags & FLAG_PERSISTENT) and message.ttl != 0
        delivery = Delivery(self, ident, message.uuid, is_stored)
        message.__dict__[_ATTRIBUTE] = delivery
        with self._lock:
            self._open.add(delivery)
            if is_stored:
                self._stored.setdefault((ident, message.uuid), []).append(delivery)
        return delivery

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """They were not queued, and the caller gets an exception."""
        self._finish((delivery, DeliveryState.DROPPED) for delivery in deliveries)

    def queue(self, deliveries: Iterable[Delivery]) -> None:
        """They are going to be queued now. Before that: the loop may be faster."""
        with self._lock:
            for delivery in deliveries:
                if delivery._is_stored and delivery._state is DeliveryState.QUEUED:
                    delivery._state = DeliveryState.STORED

    def queued(self, delivery: Delivery, accepted: bool) -> None:
        """One of them is queued, or was not accepted."""
        if not accepted:
            self._finish([(delivery, DeliveryState.DROPPED)])
        elif self._closed:
            # The peer was stopped meanwhile, and may not have seen it.
            self._finish([(delivery, self._last_state(delivery))])

    def wait(
        self, condition: Callable[[], bool], timeout: float | None, delivery: Delivery
    ) -> None:
        """See :meth:`Delivery.wait`."""
        self._prepare_to_wait()
        if not self._changes.wait_for(condition, timeout):
            raise TimeoutError(
                f"the message to {delivery.ident!r} is {delivery.state.value} after "
                f"{timeout:g} seconds"
            )

    def add_callback(self, delivery: Delivery, func: Callable[[Delivery], object]) -> None:
        """See :meth:`Delivery.add_done_callback`."""
        with self._lock:
            if not delivery._is_final:
                delivery._callbacks.append(func)
                return
        self._call([functools.partial(func, delivery)])

    # The loop's thread.

    def sent(self, ident: str, messages: Sequence[Message]) -> None:
        """They were handed to the system."""
        if self._open:
            with self._lock:
                for delivery in self._of(ident, messages):
                    if not delivery._is_final:
                        delivery._state = DeliveryState.SENT
            self._changes.notify()

    def left(self, ident: str, messages: Sequence[Message]) -> None:
        """They were sent, and nothing more will be heard of them."""
        self._end(ident, messages, DeliveryState.SENT)

    def acked(self, ident: str, messages: Sequence[Message]) -> None:
        """They have arrived."""
        self._end(ident, messages, DeliveryState.ACKNOWLEDGED)

    def dropped(self, ident: str, messages: Sequence[Message], reason: DropReason) -> None:
        """They are not sent any more."""
        expired = reason is DropReason.EXPIRED
        self._end(ident, messages, DeliveryState.EXPIRED if expired else DeliveryState.DROPPED)

    def close(self) -> None:
        """The peer is stopped: nothing more will be heard of any."""
        self._closed = True
        self._finish((delivery, self._last_state(delivery)) for delivery in list(self._open))

    def _of(self, ident: str, messages: Sequence[Message]) -> Iterable[Delivery]:
        for message in messages:
            delivery = message.__dict__.get(_ATTRIBUTE)
            if delivery is None and self._stored:
                # It comes out of the storage.
                of_uuid = self._stored.get((ident, message.uuid))
                delivery = of_uuid[0] if of_uuid else None
            if delivery is not None:
                yield cast(Delivery, delivery)

    @staticmethod
    def _last_state(delivery: Delivery) -> DeliveryState:
        if delivery._state is DeliveryState.QUEUED:
            return DeliveryState.DROPPED
        return DeliveryState.STORED if delivery._is_stored else delivery._state

    def _end(self, ident: str, messages: Sequence[Message], state: DeliveryState) -> None:
        if self._open:
            self._finish((delivery, state) for delivery in self._of(ident, messages))

    def _finish(self, ends: Iterable[tuple[Delivery, DeliveryState]]) -> None:
        calls: list[Callable[[], object]] = []
        with self._lock:
            for delivery, state in ends:
                if delivery._is_final:
                    continue
                delivery._state = state
                delivery._is_final = True
                self._open.discard(delivery)
                self._forget_stored(delivery)
                calls += [functools.partial(func, delivery) for func in delivery._callbacks]
                delivery._callbacks.clear()
        self._changes.notify()
        self._call(calls)

    def _forget_stored(self, delivery: Delivery) -> None:
        key = (delivery.ident, delivery.uuid)
        of_uuid = self._stored.get(key)
        if of_uuid is not None and delivery in of_uuid:
            of_uuid.remove(delivery)
            if not of_uuid:
                del self._stored[key]

    def _call(self, calls: list[Callable[[], object]]) -> None:
        if calls:
            self._callback.with_funcs(calls)()
