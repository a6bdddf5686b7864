"""Sphinx settings. To build: python -m sphinx -W -n docs docs/_build."""

import importlib.metadata

project = "hybrid_compute"
author = "hybrid_compute contributors"
release = importlib.metadata.version("hybrid-compute")
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # "Attributes:" beside documented members would list them twice
nitpicky = True
# What is not described here: the standard library's (its inventory is not at hand without a
# network), type variables, and types that only the package itself makes.
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|concurrent|contextlib|contextvars|datetime|logging)\..*"),
    (r"py:.*", r"(os|pathlib|threading|typing)\..*"),
    (
        r"py:.*",
        r"(CancelledError|CollectorRegistry|MeterProvider|TracerProvider|Context|ContextVar|Executor)",
    ),
    (r"py:.*", r"(.*\.)?~?(T|T_co|P|P2|A|B|C|D|E|X|M|S)"),
    (
        r"py:.*",
        r"(Carried|Channel|Fault|Forms|Gate|Guard|Key|Move|Pieces|Row|Service|SigningKey|Source|Step)",
    ),
    (r"py:.*", r"hybrid_compute\.(executors\._.*|routed\.RoutedItem|tasks\.OptionKeywords)"),
    (r"py:.*", r"hybrid_compute\.protocol\.signing\.SigningKey"),
]
