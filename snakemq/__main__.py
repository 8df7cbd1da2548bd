"""``python3 -m snakemq``: the command line."""

from __future__ import annotations

import sys

from snakemq.cli import main

if __name__ == "__main__":
    sys.exit(main())
