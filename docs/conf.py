"""How Sphinx builds the documentation: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from snakemq.version import VERSION

project = "snakemq"
author = "the snakemq 2 authors"
copyright = author
version = VERSION
release = VERSION

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
# `name` in a text is code or a cross-reference, and never silently neither.
default_role = "any"

html_theme = "furo"
html_title = f"snakemq {VERSION}"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
