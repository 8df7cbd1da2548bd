"""For tools that insist on a setup.py; everything is in pyproject.toml."""

from __future__ import annotations

from setuptools import setup

setup()
