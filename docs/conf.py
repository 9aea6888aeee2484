"""Builds the manual: `make docs`. Pages are plain Markdown, so that they read on GitHub as they are."""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

from recap_fast.version import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "recap-fast"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "command_line"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "recap-fast"
html_copy_source = False
html_show_copyright = False
smartquotes = False  # two dashes are an option

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]
default_role = "code"  # docstrings write `names` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False

_PAGE = re.compile(r"^- \[[^\]]+\]\(([a-z_]+)\.md\)", re.MULTILINE)
_FILE_ABOVE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")


def _adapt(app: Sphinx, page: str, source: list[str]) -> None:
    """Makes the list of pages on the first one the table of contents, and carries files of the repository along."""
    text = source[0]
    if page == "index":
        pages = "\n".join(_PAGE.findall(text))
        text += f"\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
    source[0] = _FILE_ABOVE.sub(lambda link: f"{{download}}`{link[1].strip('`')} <{link[2]}>`", text)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _adapt)
