"""The package itself: what ``import snakemq`` gives, costs and says."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Generator

import pytest

import snakemq
import snakemq.link
import snakemq.message
import snakemq.peer
import snakemq.rpc
from tests.helpers import DEADLINE


@pytest.fixture
def logger() -> Generator[logging.Logger]:
    """The logger of the package, as it is when a program starts."""
    logger = logging.getLogger("snakemq")
    level, handlers = logger.level, logger.handlers[:]
    own_handler = snakemq._log_handler
    logger.setLevel(logging.NOTSET)
    logger.handlers = [handler for handler in handlers if handler is not own_handler]
    snakemq._log_handler = None
    yield logger
    logger.setLevel(level)
    logger.handlers = handlers
    snakemq._log_handler = own_handler


def python(program: str) -> str:
    """What a program prints that runs in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_names_at_the_top_are_those_of_the_modules() -> None:
    assert snakemq.Peer is snakemq.peer.Peer
    assert snakemq.ReceivedMessage is snakemq.peer.ReceivedMessage
    assert snakemq.Message is snakemq.message.Message
    assert snakemq.FLAG_PERSISTENT == 1
    assert snakemq.SSLConfig is snakemq.link.SSLConfig
    assert snakemq.as_signal is snakemq.rpc.as_signal
    assert set(snakemq.__all__) <= set(dir(snakemq))
    with pytest.raises(AttributeError, match="'snakemq' has no attribute 'Pier'"):
        _ = snakemq.Pier


def test_importing_it_loads_no_layer_and_opens_nothing() -> None:
    loaded = json.loads(
        python(
            "import json, sys, threading\n"
            "before = set(sys.modules)\n"
            "import snakemq\n"
            "assert threading.active_count() == 1\n"
            "print(json.dumps(sorted(set(sys.modules) - before)))"
        )
    )
    assert not {"socket", "ssl", "sqlite3", "selectors", "pickle", "asyncio"} & set(loaded)
    assert {name for name in loaded if name.startswith("snakemq")} == {
        "snakemq",
        "snakemq.exceptions",
        "snakemq.message",
        "snakemq.version",
    }


def test_a_peer_without_a_storage_loads_no_database() -> None:
    python(
        "import sys, snakemq\nwith snakemq.Peer('bob'): pass\nassert 'sqlite3' not in sys.modules"
    )


def test_layers_are_imported_as_in_1_6() -> None:
    python(
        "import snakemq\n"
        "snakemq.init_logging()\n"
        "import snakemq.link, snakemq.packeter, snakemq.messaging, snakemq.message\n"
        "import snakemq.queues, snakemq.rpc, snakemq.throttle, snakemq.storage.sqlite\n"
        "link = snakemq.link.Link()\n"
        "packeter = snakemq.packeter.Packeter(link)\n"
        "messaging = snakemq.messaging.Messaging('bob', '', packeter)\n"
        "hook = snakemq.messaging.ReceiveHook(messaging)\n"
        "link.cleanup()\n"
    )


# Logging.


def test_nothing_is_said_unless_the_program_wants_to_hear_it() -> None:
    """Not even errors, which logging prints on its own if nobody listens."""
    assert (
        python("import logging, snakemq\nlogging.getLogger('snakemq.link').error('not heard')")
        == ""
    )


def test_init_logging_shows_what_the_level_allows(logger: logging.Logger) -> None:
    stream = io.StringIO()
    snakemq.init_logging(stream)
    assert logger.level == logging.CRITICAL
    log = logging.getLogger("snakemq.link")
    log.error("too quiet")
    logger.setLevel(logging.DEBUG)
    log.debug("heard")
    (line,) = stream.getvalue().splitlines()
    date, time, name, level, message = line.split(maxsplit=4)
    assert (name, level, message) == ("snakemq.link", "DEBUG", "heard")
    assert date.count("-") == 2
    assert time.count(":") == 2


def test_init_logging_writes_to_standard_error_by_default(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    snakemq.init_logging()
    logger.critical("heard")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("snakemq CRITICAL heard\n")


def test_init_logging_twice_moves_the_log_and_keeps_the_level(logger: logging.Logger) -> None:
    first, second = io.StringIO(), io.StringIO()
    snakemq.init_logging(first)
    logger.setLevel(logging.INFO)
    snakemq.init_logging(second)
    logger.info("heard")
    assert first.getvalue() == ""
    assert second.getvalue().count("heard") == 1


def test_init_logging_respects_a_level_that_was_set_before(logger: logging.Logger) -> None:
    stream = io.StringIO()
    logger.setLevel(logging.WARNING)
    snakemq.init_logging(stream)
    logger.warning("heard")
    assert stream.getvalue().count("heard") == 1
