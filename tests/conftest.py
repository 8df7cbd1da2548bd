"""Rules that every test is held to: nothing is left behind, nothing depends on luck."""

from __future__ import annotations

import collections
import gc
import logging
import os
import threading
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

from snakemq import _sleepers
from tests.helpers import wait_until

# Repeatable: the same examples in every run, and no deadline that a busy
# machine would miss. `--hypothesis-profile=explore` looks for new ones.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile("repeatable")

#: How long what a test stopped may take to be gone, in seconds.
LEAK_GRACE = 5.0

_FD_DIRECTORY = Path("/proc/self/fd")  # Linux only; elsewhere ResourceWarning has to do
_test_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_test_failed] = report.failed
    return report


def _open_files() -> collections.Counter[str]:
    """What the file descriptors of this process point to; nothing where that can't be seen."""
    targets: collections.Counter[str] = collections.Counter()
    if not _FD_DIRECTORY.is_dir():
        return targets
    for name in os.listdir(_FD_DIRECTORY):
        try:
            target = os.readlink(_FD_DIRECTORY / name)
        except OSError:
            continue  # the descriptor of listdir() itself
        if not target.startswith("/dev/"):
            targets[target] += 1
    # The process keeps a few of these, and tracebacks that are kept may keep one more.
    targets["anon_inode:[eventfd]"] -= len(_sleepers._descriptors)
    return targets


class _Leaks:
    """What is there now and was not there at the beginning of a test."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._files = _open_files()

    def threads(self) -> list[str]:
        return [
            repr(thread)
            for thread in threading.enumerate()
            if thread not in self._threads
            # pytest-timeout's, where it can't use a signal; and those of a
            # client for MongoDB, which look only twice a second whether it is closed.
            and not thread.name.startswith(("pytest_timeout", "pymongo_"))
        ]

    def files(self) -> list[str]:
        return sorted((_open_files() - self._files).elements())

    def none(self) -> bool:
        return not self.threads() and not self.files()

    def __str__(self) -> str:
        return f"the test leaves behind threads {self.threads()} and open files {self.files()}"


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Generator[None]:
    """Fails a test after which threads run or files and sockets are open that it opened.

    They may take a moment to go. An object in a reference cycle that holds a
    socket is collected first, and reported as a ResourceWarning.
    """
    leaks = _Leaks()
    yield
    if request.node.stash.get(_test_failed, True):
        return  # one report is enough: a test that fails half-way leaves things behind
    if not leaks.none():
        gc.collect()
        wait_until(leaks.none, LEAK_GRACE, what=leaks.__str__)


@pytest.fixture(autouse=True)
def log_settings() -> Generator[None]:
    """What a test sets about the log, such as init_logging() does, ends with it."""
    logger = logging.getLogger("snakemq")
    level, handlers, propagate = logger.level, logger.handlers[:], logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.propagate = propagate
