"""Writing the records of replies, also of what can hardly be written."""

from __future__ import annotations

import logging
import pickle
from typing import Any

from snakemq._core.rpc_records import Code, Request, error_record, items_record, value_record
from snakemq.rpc.errors import Error
from snakemq.rpc.hooks import call_name
from snakemq.rpc.remote_traceback import describe
from snakemq.rpc.safe_pickle import SafePickle
from snakemq.rpc.serializer import Serializer, explained, write

__all__ = ["ReplyWriter"]


class ReplyWriter:
    """Writes the records of replies. Any thread.

    :param serializer: what the callers read
    :param log: told of exceptions that can't be sent as they are
    """

    def __init__(self, serializer: Serializer, log: logging.Logger) -> None:
        self._serializer = serializer
        self._log = log

    def value(self, req_id: bytes, value: Any, request: Request) -> bytes:
        """This was returned.

        :param request: what was asked for
        :raises snakemq.rpc.Unserializable: it can't be written
        """
        record = value_record(req_id, value)
        try:
            return self._serializer.dumps(record)
        except Exception as exc:
            what = f"the result of {call_name(request.object, request.method)}"
            raise explained(self._serializer, record, what, exc) from exc

    def items(
        self, req_id: bytes, position: int, items: list[Any], request: Request, *, end: bool = False
    ) -> bytes:
        """A part of a stream.

        :param request: what was asked for
        :raises snakemq.rpc.Unserializable: an item can't be written
        """
        record = items_record(req_id, position, items, end=end)
        return write(self._serializer, record, "an item of ", request.object, request.method)

    def error(
        self,
        req_id: bytes,
        exc: Exception,
        text: str,
        *,
        code: Code | None = None,
        position: int | None = None,
    ) -> bytes | None:
        """This was raised.

        :param text: its traceback
        :return: ``None``: nothing can be written, not even a substitute
        """
        try:
            data = self._serializer.dumps(
                error_record(req_id, exc, text, code=code, position=position)
            )
            # Many exceptions can be written and not be read again, such as
            # those with other arguments than their class takes. Better found
            # out here than by the caller, who would know of no reply at all.
            self._check(data)
        except BaseException as reason:
            # SystemExit too: it is the program's code that writes exceptions.
            self._log.debug("%s can't be sent: %s", describe(exc), describe(reason))
            return self._substitute(req_id, exc, text, reason, code, position)
        return data

    def _check(self, data: bytes) -> None:
        if isinstance(self._serializer, SafePickle):
            # A class that is not registered here may be there, or the caller
            # reads with pickle itself. It is data of this program, so there
            # is no harm in that.
            pickle.loads(data)
        else:
            self._serializer.loads(data)

    def _substitute(
        self,
        req_id: bytes,
        exc: Exception,
        text: str,
        reason: BaseException,
        code: Code | None,
        position: int | None,
    ) -> bytes | None:
        message = f"{describe(exc)} (a substitute; the exception can't be sent: {describe(reason)})"
        # The second for serializers that know no exceptions.
        for substitute in (Error(message), describe(exc)):
            try:
                return self._serializer.dumps(
                    error_record(req_id, substitute, text, code=code, position=position)
                )
            except Exception as error:
                self._log.debug("neither can %r: %r", substitute, error)
        self._log.error("a caller can't be answered: %s", message, exc_info=exc)
        return None
