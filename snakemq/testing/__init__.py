"""For tests: a simulated network, pairs of peers, and contract suites."""

from __future__ import annotations
