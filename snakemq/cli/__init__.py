"""The command line: ``snakemq VERB ...`` or ``python3 -m snakemq VERB ...``.

One module for each verb; :func:`main` is the entry point.
"""

from __future__ import annotations

from snakemq.cli._main import main

__all__ = ["main"]
