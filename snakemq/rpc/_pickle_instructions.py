"""The instructions of pickles, protocols 0 to 5, for the machine that makes data only."""

from __future__ import annotations

import codecs
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, Final

from snakemq.rpc._known_types import BadData, KnownTypes, UnknownType
from snakemq.rpc._pickle_globals import RegisteredClass
from snakemq.rpc._pickle_machine import Machine, text_keys

__all__ = ["read_pickle"]

#: Gets the machine and the position behind its code, returns that of the next one.
_Operation = Callable[[Machine, int], int]

_HIGHEST_PROTOCOL: Final = 5
#: Digits of a number that is written in decimal, as Python has it.
_MAX_DIGITS: Final = 4300

_U2: Final = struct.Struct("<H").unpack_from
_U4: Final = struct.Struct("<I").unpack_from
_I4: Final = struct.Struct("<i").unpack_from
_U8: Final = struct.Struct("<Q").unpack_from
_F8: Final = struct.Struct(">d").unpack_from

_MEMOIZE: Final = 0x94
_SHORT_TEXT: Final = 0x8C
_STOP: Final = 0x2E

#: Instructions that push a number or constant; a run of them is left to pickle itself.
_NUMBERS: Final = frozenset(b"GJKMN\x88\x89")
_MORE_NUMBERS: Final = re.compile(rb"(?:K.|M..|J.{4}|G.{8}|[N\x88\x89]){4,1000}", re.DOTALL).match


def read_pickle(data: bytes, known: KnownTypes, *, stand_ins: bool = False) -> Any:
    """What a pickle describes.

    :param known: what may be in it
    :param stand_ins: an unknown class under ``"exception"`` becomes a :class:`RemoteError`
    :raises BadData: it is none, or is refused
    :raises UnknownType: it has an object of an unknown class
    """
    machine = Machine(data, known, stand_ins=stand_ins)
    operations = _OPERATIONS
    stack = machine.stack
    memo = machine.memo
    pos = behind_number = 0
    code = _STOP
    try:
        while True:
            code = data[pos]
            # What most of a large pickle consists of is done here.
            if code == _MEMOIZE:
                memo[len(memo)] = stack[-1]
                pos += 1
            elif code == _SHORT_TEXT:
                end = pos + 2 + data[pos + 1]
                text = data[pos + 2 : end]
                if len(text) != data[pos + 1]:
                    _take(machine, pos + 2, data[pos + 1])
                stack.append(str(text, "utf-8", "surrogatepass"))
                pos = end
            elif code in _NUMBERS:
                run = _MORE_NUMBERS(data, pos) if pos == behind_number else None
                if run is None:
                    pos = operations[code](machine, pos + 1)
                else:
                    stack += pickle.loads(b"(" + run[0] + b"t.")
                    pos = run.end()
                behind_number = pos
            elif code == _STOP:
                return machine.result()
            else:
                pos = operations[code](machine, pos + 1)
    except (BadData, UnknownType):
        raise
    except IndexError:
        # Of the data, the stack, or the marks.
        raise BadData(f"the pickle is cut off or malformed at byte {pos}") from None
    except Exception as exc:
        if isinstance(exc, KeyError) and code not in operations:
            raise BadData(f"byte {pos} of the pickle is no instruction: {code:#04x}") from None
        if isinstance(exc, UnicodeError):
            # It has all of the data in it, and so would every log.
            raise BadData(f"text of the pickle can't be decoded at byte {pos}") from None
        reason = repr(exc)[:_SHOWN]
        raise BadData(f"the pickle can't be read at byte {pos}: {reason}") from exc


def _take(machine: Machine, pos: int, size: int) -> int:
    """The end of so many bytes, if they are there."""
    end = pos + size
    if end > len(machine.data):
        raise BadData(f"{size} bytes are announced and {len(machine.data) - pos} are left")
    return end


def _line(machine: Machine, pos: int, limit: int | None = None) -> tuple[bytes, int]:
    end = machine.data.find(b"\n", pos)
    if end < 0:
        raise BadData("a line without an end")
    if limit is not None and end - pos > limit:
        raise BadData(f"a line of {end - pos} characters where {limit} are enough")
    return machine.data[pos:end], end + 1


def _constant(value: Any) -> _Operation:
    def push(machine: Machine, pos: int) -> int:
        machine.stack.append(value)
        return pos

    return push


def _number(unpack: Callable[..., tuple[Any, ...]], size: int) -> _Operation:
    def push(machine: Machine, pos: int) -> int:
        end = _take(machine, pos, size)
        machine.stack.append(unpack(machine.data, pos)[0])
        return end

    return push


def _one_byte(machine: Machine, pos: int) -> int:
    machine.stack.append(machine.data[pos])
    return pos + 1


def _sized(
    decode: Callable[[bytes], Any], unpack: Callable[..., tuple[Any, ...]] | None, size: int
) -> _Operation:
    """An instruction that is followed by a size and so many bytes."""

    def push(machine: Machine, pos: int) -> int:
        if unpack is None:
            length = machine.data[pos]
        else:
            _take(machine, pos, size)
            (length,) = unpack(machine.data, pos)
            if length < 0:
                raise BadData("a negative size")
        pos += size
        end = _take(machine, pos, length)
        machine.stack.append(decode(machine.data[pos:end]))
        return end

    return push


def _text(data: bytes) -> str:
    return str(data, "utf-8", "surrogatepass")


def _old_text(data: bytes) -> str:
    return str(data, "ascii")


def _long(unpack: Callable[..., tuple[Any, ...]] | None, size: int) -> _Operation:
    push_bytes = _sized(bytes, unpack, size)

    def push(machine: Machine, pos: int) -> int:
        end = push_bytes(machine, pos)
        machine.push_int(int.from_bytes(machine.stack.pop(), "little", signed=True))
        return end

    return push


#: How much is said of what a registered type has raised, in characters.
_SHOWN: Final = 200

_INTEGER: Final = re.compile(rb"(0|-?[1-9][0-9]*)L?")


def _int_line(machine: Machine, pos: int) -> int:
    line, end = _line(machine, pos, _MAX_DIGITS + 2)
    if line in (b"00", b"01"):
        machine.stack.append(line == b"01")
        return end
    if _INTEGER.fullmatch(line) is None:
        # The readers of pickle do not agree about zeros, signs and spaces before a number.
        raise BadData("a number that is not written as one")
    machine.push_int(int(line.removesuffix(b"L")))
    return end


def _float_line(machine: Machine, pos: int) -> int:
    line, end = _line(machine, pos, _MAX_DIGITS)
    try:
        machine.stack.append(float(line))
    except ValueError:
        raise BadData("a number that is not written as one") from None
    return end


def _string_line(machine: Machine, pos: int) -> int:
    line, end = _line(machine, pos)
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise BadData("a string without quotes")
    machine.stack.append(str(codecs.escape_decode(line[1:-1])[0], "ascii"))
    return end


def _unicode_line(machine: Machine, pos: int) -> int:
    line, end = _line(machine, pos)
    machine.stack.append(str(line, "raw-unicode-escape"))
    return end


def _protocol(machine: Machine, pos: int) -> int:
    if machine.data[pos] > _HIGHEST_PROTOCOL:
        raise BadData(f"protocol {machine.data[pos]} of pickle is not known")
    return pos + 1


def _frame(machine: Machine, pos: int) -> int:
    _take(machine, pos, 8)
    _take(machine, pos + 8, _U8(machine.data, pos)[0])
    return pos + 8


def _mark(machine: Machine, pos: int) -> int:
    machine.marks.append(len(machine.stack))
    return pos


def _pop(machine: Machine, pos: int) -> int:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()
    return pos


def _pop_mark(machine: Machine, pos: int) -> int:
    machine.since_mark()
    return pos


def _empty(cls: Callable[[], Any]) -> _Operation:
    def push(machine: Machine, pos: int) -> int:
        machine.stack.append(cls())
        return pos

    return push


def _tuple(machine: Machine, pos: int) -> int:
    machine.push_tuple(machine.since_mark())
    return pos


def _tuple_of(count: int) -> _Operation:
    def push(machine: Machine, pos: int) -> int:
        stack = machine.stack
        items = stack[-count:]
        if len(items) != count:
            raise IndexError
        del stack[-count:]
        machine.push_tuple(items)
        return pos

    return push


def _list(machine: Machine, pos: int) -> int:
    made: list[Any] = []
    machine.extend(made, machine.since_mark())
    machine.stack.append(made)
    return pos


def _dict(machine: Machine, pos: int) -> int:
    made: dict[Any, Any] = {}
    machine.set_items(made, machine.since_mark())
    machine.stack.append(made)
    return pos


def _frozenset(machine: Machine, pos: int) -> int:
    machine.stack.append(machine.frozen(machine.since_mark()))
    return pos


def _append(machine: Machine, pos: int) -> int:
    item = machine.stack.pop()
    machine.extend(machine.stack[-1], [item])
    return pos


def _appends(machine: Machine, pos: int) -> int:
    items = machine.since_mark()
    machine.extend(machine.stack[-1], items)
    return pos


def _set_item(machine: Machine, pos: int) -> int:
    value = machine.stack.pop()
    key = machine.stack.pop()
    machine.set_items(machine.stack[-1], [key, value])
    return pos


def _set_items(machine: Machine, pos: int) -> int:
    items = machine.since_mark()
    machine.set_items(machine.stack[-1], items)
    return pos


def _add_items(machine: Machine, pos: int) -> int:
    items = machine.since_mark()
    machine.add_items(machine.stack[-1], items)
    return pos


def _remember(machine: Machine, index: int) -> None:
    if not 0 <= index <= len(machine.data):
        raise BadData(f"memo index {index} in a pickle of {len(machine.data)} bytes")
    machine.memo[index] = machine.stack[-1]


def _recall(machine: Machine, index: int) -> None:
    try:
        value = machine.memo[index]
    except KeyError:
        raise BadData(f"nothing has memo index {index}") from None
    machine.note_fetched(value)
    machine.stack.append(value)


def _indexed(action: Callable[[Machine, int], None], large: bool) -> _Operation:
    def act(machine: Machine, pos: int) -> int:
        if not large:
            action(machine, machine.data[pos])
            return pos + 1
        end = _take(machine, pos, 4)
        action(machine, _U4(machine.data, pos)[0])
        return end

    return act


def _indexed_by_line(action: Callable[[Machine, int], None]) -> _Operation:
    def act(machine: Machine, pos: int) -> int:
        line, end = _line(machine, pos, 20)
        action(machine, int(line))
        return end

    return act


def _names(machine: Machine, pos: int) -> tuple[str, str, int]:
    module, pos = _line(machine, pos)
    name, pos = _line(machine, pos)
    return str(module, "utf-8"), str(name, "utf-8"), pos


def _global(machine: Machine, pos: int) -> int:
    module, name, pos = _names(machine, pos)
    machine.stack.append(machine.find(module, name))
    return pos


def _stack_global(machine: Machine, pos: int) -> int:
    name = machine.stack.pop()
    module = machine.stack.pop()
    machine.stack.append(machine.find(module, name))
    return pos


def _reduce(machine: Machine, pos: int) -> int:
    args = machine.stack.pop()
    callee = machine.stack.pop()
    machine.stack.append(machine.make(callee, args))
    return pos


def _new(machine: Machine, pos: int) -> int:
    args = machine.stack.pop()
    callee = machine.stack.pop()
    machine.stack.append(machine.make(callee, args, {}))
    return pos


def _new_with_keywords(machine: Machine, pos: int) -> int:
    kwargs = text_keys(machine.stack.pop())
    args = machine.stack.pop()
    callee = machine.stack.pop()
    machine.stack.append(machine.make(callee, args, kwargs))
    return pos


def _old_instance(machine: Machine, callee: Any, args: list[Any]) -> None:
    if isinstance(callee, RegisteredClass) and not args:
        # Classes of Python 2 without a base: made without their __init__.
        machine.stack.append(machine.make(callee, (), {}))
    else:
        machine.push_tuple(args)
        machine.stack.append(machine.make(callee, machine.stack.pop()))


def _instance(machine: Machine, pos: int) -> int:
    module, name, pos = _names(machine, pos)
    _old_instance(machine, machine.find(module, name), machine.since_mark())
    return pos


def _object(machine: Machine, pos: int) -> int:
    callee, *args = machine.since_mark()
    _old_instance(machine, callee, args)
    return pos


def _build(machine: Machine, pos: int) -> int:
    state = machine.stack.pop()
    machine.build(machine.stack[-1], state)
    return pos


def _refused(what: str) -> _Operation:
    def refuse(machine: Machine, pos: int) -> int:
        raise BadData(f"a pickle with {what}, which is refused")

    return refuse


_PERSISTENT: Final = _refused("a persistent identifier")
_EXTENSION: Final = _refused("an extension code")
_BUFFER: Final = _refused("a buffer that is not in it")

_OPERATIONS: Final[dict[int, _Operation]] = {
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("I"): _int_line,
    ord("J"): _number(_I4, 4),
    ord("K"): _one_byte,
    ord("M"): _number(_U2, 2),
    ord("L"): _int_line,
    0x8A: _long(None, 1),
    0x8B: _long(_I4, 4),
    ord("F"): _float_line,
    ord("G"): _number(_F8, 8),
    ord("S"): _string_line,
    ord("T"): _sized(_old_text, _I4, 4),
    ord("U"): _sized(_old_text, None, 1),
    ord("V"): _unicode_line,
    ord("X"): _sized(_text, _U4, 4),
    0x8D: _sized(_text, _U8, 8),
    ord("B"): _sized(bytes, _U4, 4),
    ord("C"): _sized(bytes, None, 1),
    0x8E: _sized(bytes, _U8, 8),
    0x96: _sized(bytearray, _U8, 8),
    ord("]"): _empty(list),
    ord("l"): _list,
    ord("a"): _append,
    ord("e"): _appends,
    ord(")"): _constant(()),
    ord("t"): _tuple,
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("}"): _empty(dict),
    ord("d"): _dict,
    ord("s"): _set_item,
    ord("u"): _set_items,
    0x8F: _empty(set),
    0x90: _add_items,
    0x91: _frozenset,
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("p"): _indexed_by_line(_remember),
    ord("q"): _indexed(_remember, False),
    ord("r"): _indexed(_remember, True),
    ord("g"): _indexed_by_line(_recall),
    ord("h"): _indexed(_recall, False),
    ord("j"): _indexed(_recall, True),
    ord("c"): _global,
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _new,
    0x92: _new_with_keywords,
    ord("i"): _instance,
    ord("o"): _object,
    ord("b"): _build,
    0x80: _protocol,
    0x95: _frame,
    # No pickler writes it.
    ord("2"): _refused("a doubled value"),
    ord("P"): _PERSISTENT,
    ord("Q"): _PERSISTENT,
    0x82: _EXTENSION,
    0x83: _EXTENSION,
    0x84: _EXTENSION,
    0x97: _BUFFER,
    0x98: _BUFFER,
}
