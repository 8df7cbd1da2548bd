"""Fixtures of the tests that kill and cut."""

from __future__ import annotations

from tests.compat.conftest import snakemq16_env, this_env

__all__ = ["snakemq16_env", "this_env"]
