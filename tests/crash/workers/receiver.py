"""Records the messages that come until it is told to end. Usage: ``receiver.py OPTIONS``.

Options: those of :func:`stacks.make_stack`; ``records`` (path); ``run`` (see
:class:`records.Workload`); ``incarnation``.

Commands: ``die``: kill yourself in the callback of the message that comes after
so many more, before or after it is recorded; ``stop``: close everything and end.
"""

from __future__ import annotations

from control import Control, die
from records import BEGUN, ENDED, RECEIVED, Recorder, Workload
from stacks import make_stack


class Receiver:
    def __init__(self, control: Control) -> None:
        options = control.options
        self._control = control
        self._workload = Workload(options["run"].encode())
        self._recorder = Recorder(options["records"], options["incarnation"])
        self._die_in: int | None = None
        self._recorded_then = False
        # Also without a stack that works this is a process that began.
        self._recorder.write(BEGUN)
        self.stack = make_stack(options, control.changed, self._receive)
        control.at_once("die", self._plan_death)

    def run(self) -> None:
        self._control.start()
        self._control.say(ready=self.stack.port)
        self.stack.run(self._turn)
        self._recorder.write(ENDED)

    def _turn(self) -> bool | None:
        # The one command that gets here is to stop.
        return None if self._control.next() else False

    def _receive(self, uuid: bytes, data: bytes, redelivered: bool) -> int:
        number, damaged = self._workload.number(data)
        dying = False
        if self._die_in is not None:
            self._die_in -= 1
            dying = self._die_in <= 0
        if dying and not self._recorded_then:
            die()
        self._recorder.write(RECEIVED, number, uuid, len(data), redelivered, damaged)
        if dying:
            die()
        return number

    def _plan_death(self, count: int, recorded: bool) -> None:
        self._recorded_then = recorded
        self._die_in = count


if __name__ == "__main__":
    Receiver(Control()).run()
