"""All paths; importing the modules that have them is what registers them."""

from __future__ import annotations

from importlib import import_module

from tests.work.paths import PATHS

__all__ = ["PATHS"]

for _name in ("message", "call", "live", "memory", "system_call"):
    import_module(f"tests.work.{_name}_paths")
