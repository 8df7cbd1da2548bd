"""Callback slots.

A slot is what ``link.on_recv`` and its like are: callables are added to it,
and calling the slot calls them in the order in which they were added.

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
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, overload

__all__ = ["Callback", "CallbackOwner", "CallbackSlot"]

P = ParamSpec("P")

_log = logging.getLogger("snakemq.callbacks")


class Callback(Generic[P]):
    """An ordered list of callables that is itself callable.

    Truthy if there is anything to call, so that a hot path can leave out the
    work of preparing the arguments.
    """

    __slots__ = ("_funcs", "_name", "_owner", "_wired")

    def __init__(self, owner: CallbackOwner | None = None, name: str = "callback") -> None:
        self._owner = owner
        self._name = name
        # A tuple that is replaced and never changed: a callback may add or
        # remove callbacks, and other threads may, while it is iterated.
        self._funcs: tuple[Callable[P, object], ...] = ()
        self._wired: tuple[Callable[P, object], ...] = ()

    @property
    def callbacks(self) -> list[Callable[P, object]]:
        """The callables, in the order in which they are called (a copy)."""
        return list(self._funcs)

    @property
    def has_user_callbacks(self) -> bool:
        """Whether anything is called that the stack did not wire itself."""
        return len(self._funcs) > len(self._wired)

    def add(self, func: Callable[P, object]) -> None:
        """Call ``func`` after the callables that are already there."""
        self._funcs = (*self._funcs, func)

    def remove(self, func: Callable[P, object]) -> None:
        """Take ``func`` out once.

        :raises ValueError: it is not there
        """
        funcs = list(self._funcs)
        funcs.remove(func)
        self._funcs = tuple(funcs)
        if func in self._wired and self._wired.count(func) > funcs.count(func):
            wired = list(self._wired)
            wired.remove(func)
            self._wired = tuple(wired)

    def wire(self, func: Callable[P, object]) -> None:
        """Like :meth:`add`, for the stack itself: :meth:`assign` keeps it."""
        self._wired = (*self._wired, func)
        self.add(func)

    def assign(self, func: Callable[P, object] | None) -> None:
        """Replace everything that is not wired by ``func`` (``None``: by nothing)."""
        self._funcs = (*self._wired, func) if func is not None else self._wired

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        funcs = iter(self._funcs)
        for func in funcs:
            try:
                func(*args, **kwargs)
            except Exception as exc:
                self._failed(func, args, exc)
            except BaseException:
                # It may leave the loop, but a layer must not miss an event
                # because of it: the loop can be called again.
                rest = Callback[P](self._owner, self._name)
                rest._funcs = tuple(funcs)
                rest(*args, **kwargs)
                raise

    def _failed(self, func: Callable[P, object], args: tuple[Any, ...], exc: Exception) -> None:
        if self._owner is None:
            _log.error("exception in %s callback %r", self._name, func, exc_info=exc)
        else:
            self._owner.callback_failed(self._name, func, args, exc)

    def __bool__(self) -> bool:
        return bool(self._funcs)

    def __repr__(self) -> str:
        return f"<Callback {self._name} callbacks={len(self._funcs)}>"


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
