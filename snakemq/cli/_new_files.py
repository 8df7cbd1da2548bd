"""Files that appear under their names when they are complete, and replace nothing unasked."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from snakemq.cli._exit import CommandError

__all__ = ["publish", "refuse_existing", "workshop"]


@contextmanager
def workshop(directory: Path) -> Iterator[Path]:
    """For ``with``: a directory that nobody else can read, for what is not complete yet.

    It is inside the one where the files will be: renaming can't go from one
    file system to another, and a key is not to be seen elsewhere.

    :raises CommandError: there is no such directory, or nothing can be written there
    """
    if not directory.is_dir():
        raise CommandError(f"there is no directory {directory}")
    try:
        temporary = tempfile.TemporaryDirectory(prefix=".snakemq-keygen-", dir=directory)
    except OSError as exc:
        raise CommandError(f"can't write in {directory}: {exc.strerror}") from exc
    with temporary as path:
        yield Path(os.path.abspath(path))


def refuse_existing(paths: Iterable[Path], *, force: bool) -> None:
    """Find out early what :func:`publish` would not do.

    :param force: files may be replaced
    :raises CommandError: something is there that is not to be replaced
    """
    for path in paths:
        if force and path.is_dir():
            raise CommandError(f"{path} is a directory")
        if not force and os.path.lexists(path):
            raise _exists(path)


def publish(files: Mapping[Path, Path], *, force: bool) -> None:
    """Give files their names: all of them, or none.

    :param files: the names, each with what gets it
    :param force: replace files that have these names
    :raises CommandError: there is one, and ``force`` is not set
    """
    for made in files.values():
        with open(made, "r+b") as file:
            os.fsync(file.fileno())
    with contextlib.ExitStack() as claimed:
        if not force:
            for path in files:
                _claim(path)
                claimed.callback(_remove, path)
        for path, made in files.items():
            os.replace(made, path)
        claimed.pop_all()


def _claim(path: Path) -> None:
    """Make an empty file, because renaming does not tell whether there was one."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise _exists(path) from None


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _exists(path: Path) -> CommandError:
    return CommandError(f"{path} exists already; --force replaces it")
