"""Sphinx settings. To build: python -m sphinx -W docs docs/_build."""

import importlib.metadata

project = "hybrid_compute"
author = "hybrid_compute contributors"
release = importlib.metadata.version("hybrid-compute")
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
