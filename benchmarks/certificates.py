"""Certificates for the workloads with TLS, made by the package's own ``keygen``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.environments import ROOT, Unavailable
from benchmarks.peers import Certificates

__all__ = ["make_certificates"]

_TIMEOUT: Final = 60.0


def make_certificates(directory: Path) -> Certificates:
    """Make those of an authority and of both sides.

    :param directory: where they are put; it exists
    :raises Unavailable: it is not possible here; the message says why
    """
    for words in (
        ["ca"],
        ["peer", "listener", "--host", "127.0.0.1"],
        ["peer", "dialler", "--host", "127.0.0.1"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "snakemq", "keygen", *words, "--dir", str(directory)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"snakemq keygen {words[0]}: {done.stderr.strip()[-500:]}")
    return Certificates(directory)
