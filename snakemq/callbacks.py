"""Callback slots.

A slot is what ``link.on_recv`` and its like are: callables are added to it,
and calling the slot calls the stack's own, then the others in the order in
which they were added.

Two laws:

* What a callback raises stays here. An :class:`Exception` is reported to the
  owner of the slot, which logs it and tells ``on_error``; the next callback
  runs all the same. :class:`KeyboardInterrupt` and :class:`SystemExit` pass,
  when the callbacks after it have run.
* The stack *wires* its own callables. Assigning to a slot (``link.on_recv =
  f``, as 1.6 programs do) replaces what users added and never what is wired.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, ParamSpec, overload

__all__ = ["Callback", "CallbackOwner", "CallbackSlot"]

P = ParamSpec("P")

_log = logging.getLogger("snakemq.callbacks")

# One for all slots: they change when a program starts, and are called without it.
_changing = threading.Lock()


class Callback(Generic[P]):
    """An ordered list of callables that is itself callable.

    Truthy if there is anything to call, so that a hot path can leave out the
    work of preparing the arguments.

    :ivar funcs: the callables, the stack's own first; a tuple that is replaced
        and never changed
    :ivar users: how many of them the stack has not wired
    """

    __slots__ = ("_name", "_owner", "_wired", "funcs", "users")

    def __init__(self, owner: CallbackOwner | None = None, name: str = "callback") -> None:
        self._owner = owner
        self._name = name
        # Tuples that are replaced and never changed: a callback may add or
        # remove callbacks, and other threads may, while they are iterated.
        # The wired ones are the first of all.
        self.funcs: tuple[Callable[P, object], ...] = ()
        self._wired: tuple[Callable[P, object], ...] = ()
        self.users = 0

    @property
    def callbacks(self) -> list[Callable[P, object]]:
        """The callables, in the order in which they are called (a copy)."""
        return list(self.funcs)

    @property
    def has_user_callbacks(self) -> bool:
        """Whether anything is called that the stack did not wire itself.

        Also by way of another slot that is wired here.
        """
        return bool(self.funcs) and (
            self.users > 0
            or any(isinstance(func, Callback) and func.has_user_callbacks for func in self._wired)
        )

    def add(self, func: Callable[P, object]) -> None:
        """Call ``func`` after the callables that are already there. Thread-safe."""
        with _changing:
            self.funcs = (*self.funcs, func)
            self.users += 1

    def remove(self, func: Callable[P, object]) -> None:
        """Take ``func`` out once.

        :raises ValueError: it is not there
        """
        with _changing:
            wired = list(self._wired)
            users = list(self.funcs[len(wired) :])
            (users if func in users else wired).remove(func)
            self._wired = tuple(wired)
            self.funcs = (*wired, *users)
            self.users = len(users)

    def wire(self, func: Callable[P, object]) -> None:
        """Like :meth:`add`, for the stack itself.

        It comes before all that users added, also earlier: a layer must know
        of a connection before a user closes it. :meth:`assign` keeps it.
        """
        with _changing:
            users = self.funcs[len(self._wired) :]
            self._wired = (*self._wired, func)
            self.funcs = (*self._wired, *users)

    def assign(self, func: Callable[P, object] | None) -> None:
        """Replace everything that is not wired by ``func`` (``None``: by nothing)."""
        with _changing:
            self.funcs = (*self._wired, func) if func is not None else self._wired
            self.users = int(func is not None)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Exception | None:
        """Call them all.

        :return: what the last of those raised that failed
        """
        failure: Exception | None = None
        funcs = iter(self.funcs)
        for func in funcs:
            try:
                func(*args, **kwargs)
            except Exception as exc:
                self.failed(func, args, exc)
                failure = exc
            except (KeyboardInterrupt, SystemExit):
                self.call_rest(funcs, *args, **kwargs)
                raise
        return failure

    #: likewise, to be handed to somebody
    call = __call__

    def call_rest(
        self, funcs: Iterator[Callable[P, object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """One callable interrupts the loop: call the others.

        A layer must not miss an event because of it: the loop can be called
        again.
        """
        self.with_funcs(funcs)(*args, **kwargs)

    def with_funcs(self, funcs: Iterable[Callable[P, object]]) -> Callback[P]:
        """One that calls something else, and reports failures as this one does."""
        other = Callback[P](self._owner, self._name)
        other.funcs = tuple(funcs)
        return other

    def failed(self, func: Callable[..., object], args: tuple[Any, ...], exc: Exception) -> None:
        """One callable raised: have it logged and reported."""
        if self._owner is None:
            _log.error("exception in %s callback %r", self._name, func, exc_info=exc)
        else:
            self._owner.callback_failed(self._name, func, args, exc)

    def __bool__(self) -> bool:
        return bool(self.funcs)

    def __repr__(self) -> str:
        return f"<Callback {self._name} callbacks={len(self.funcs)}>"


class CallbackOwner:
    """Base of the layers: has slots, logs what fails in them, tells ``on_error``."""

    log: logging.Logger

    def callback_failed(
        self, name: str, func: Callable[..., object], args: tuple[Any, ...], exc: Exception
    ) -> None:
        """A callback raised: log it with its traceback and report it.

        ``on_error`` gets the connection if the callback was about one, else
        ``None``.
        """
        self.log.error("exception in %s callback %r", name, func, exc_info=exc)
        on_error = getattr(self, "on_error", None)
        if on_error is None or name == "on_error":
            return
        conn_id = args[0] if args and isinstance(args[0], str) else None
        on_error(conn_id, exc)


class CallbackSlot(Generic[P]):
    """Declares a slot in the body of a layer's class.

    Reading gives the instance's :class:`Callback`, assigning a callable goes
    through :meth:`Callback.assign`.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> CallbackSlot[P]: ...

    @overload
    def __get__(self, instance: CallbackOwner, owner: type) -> Callback[P]: ...

    def __get__(self, instance: CallbackOwner | None, owner: type) -> CallbackSlot[P] | Callback[P]:
        if instance is None:
            return self
        slots: dict[str, Callback[P]] = instance.__dict__
        key = "slot " + self._name
        try:
            return slots[key]
        except KeyError:
            # setdefault: two threads may come here at the same time.
            return slots.setdefault(key, Callback(instance, self._name))

    def __set__(self, instance: CallbackOwner, func: Callable[P, object] | None) -> None:
        if func is not None and not callable(func):
            raise TypeError(f"{self._name} takes a callable, not {type(func).__name__}")
        callback = self.__get__(instance, type(instance))
        if func is not callback:
            callback.assign(func)
