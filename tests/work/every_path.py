"""All paths; importing the modules that have them is what registers them."""

from __future__ import annotations

from tests.work import live_paths, message_paths
from tests.work.paths import PATHS

__all__ = ["PATHS", "live_paths", "message_paths"]
