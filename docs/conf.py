"""Sphinx configuration: Markdown by MyST, the furo theme, nothing loaded from another host."""

import re
from pathlib import Path

_VERSION = re.compile(r'^__version__ = "([^"]+)"', re.MULTILINE)

project = "shellrunner"
author = "the shellrunner developers"
copyright = "2026, the shellrunner developers"  # noqa: A001  Sphinx reads this name
release = _VERSION.search((Path(__file__).parent.parent / "src/shellrunner/__init__.py").read_text())[1]  # type: ignore[index]

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
suppress_warnings: list[str] = []
nitpicky = True

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
myst_links_external_new_tab = False

html_theme = "furo"
html_favicon = "../src/shellrunner/page/icons/idle.svg"
html_title = f"shellrunner {release}"
html_use_index = False
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_use_opensearch = ""
html_show_search_summary = False  # the search would fetch every page that it found, which the served policy forbids
highlight_language = "text"
