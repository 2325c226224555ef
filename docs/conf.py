"""How Sphinx makes pages of this folder: ``make docs``."""

import sys
from pathlib import Path

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE.parent), str(_HERE / "_ext")]

from logiss._version import __version__  # noqa: E402

project = "logiss"
release = version = __version__
# Nothing that changes from build to build, and nobody's name.
html_show_copyright = False
html_title = f"logiss {__version__}"

extensions = ["sphinxarg.ext", "linked_files"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["printed.css"]
html_copy_source = False
html_show_sourcelink = False
# A block without a language is a log line, a frame or a table of figures.
highlight_language = "none"
smartquotes = False
nitpicky = True

# Made by `make faults`, and a part of the page that includes it.
exclude_patterns = ["faults-report.rst"]
#: Files that a page includes whole: a link to one is a link to that page.
linked_files_pages = {
    "faults-report.rst": "faults",
    "../SECURITY.rst": "security",
    "../CHANGELOG.rst": "changelog",
}
