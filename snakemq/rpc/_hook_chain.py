"""The hooks of a client or server, and what they are told of one call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Final

from snakemq.rpc.hooks import CallHook, CallInfo

__all__ = ["HookChain", "Hooked"]

#: Few are added, by whatever thread.
_changing: Final = threading.Lock()


class Hooked:
    """Base of what has hooks around its calls.

    :ivar hooks: what is told of every call, in this order. Never changed, but
        replaced: by :meth:`add_hook` and :meth:`remove_hook`.
    """

    def __init__(self) -> None:
        self.hooks: list[CallHook] = []

    def add_hook(self, hook: CallHook) -> None:
        """Have a hook told of every call from now on, inside of those that there are. Any thread.

        See :class:`CallHook` for where and when.
        """
        with _changing:
            self.hooks = [*self.hooks, hook]

    def remove_hook(self, hook: CallHook) -> None:
        """Undo :meth:`add_hook`. Calls that have begun are not concerned.

        :raises ValueError: it is not there
        """
        with _changing:
            hooks = list(self.hooks)
            hooks.remove(hook)
            self.hooks = hooks


class HookChain:
    """Tells hooks of one call, once each way.

    :param hooks: those that there were when the call was begun
    :param log: for what ``after`` raises
    """

    __slots__ = ("_begun", "_hooks", "_log", "call")

    def __init__(self, hooks: Sequence[CallHook], call: CallInfo, log: logging.Logger) -> None:
        self.call = call
        self._hooks = hooks
        self._log = log
        self._begun: list[CallHook] = []

    def begin(self) -> None:
        """Call ``before`` of all of them.

        :raises Exception: what one raised; those before it have been told by
            ``after``
        """
        try:
            for hook in self._hooks:
                hook.before(self.call)
                self._begun.append(hook)
        except BaseException as exc:
            self.end(exc)
            raise

    def end(self, error: BaseException | None) -> None:
        """Call ``after`` of all whose ``before`` returned, the last one first.

        For the one who ended the call; a second time nothing happens.

        :raises KeyboardInterrupt: somebody wants to end the program; the others
            have been told then
        """
        begun, self._begun = self._begun, []
        interrupt: KeyboardInterrupt | None = None
        for hook in reversed(begun):
            try:
                hook.after(self.call, error)
            except BaseException as exc:
                # SystemExit too: the call has ended, and its caller has to be told how.
                if isinstance(exc, KeyboardInterrupt) and _is_main_thread():
                    interrupt = exc
                else:
                    self._log.exception("exception in %s after %s", type(hook), self.call.name)
        if interrupt is not None:
            raise interrupt


def _is_main_thread() -> bool:
    """Whether this is the one in which signals arrive."""
    return threading.current_thread() is threading.main_thread()
