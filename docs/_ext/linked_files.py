"""
Links between the documents that hold in both ways to read them: as plain files, where
a forge follows ```HTTP <http.rst#limits>`_`` by itself, and as Sphinx's pages.

A link to a page, or to a file that one includes, becomes a link to that page. A link to
any other file becomes a download. What does not exist, page, file or section, is a
warning, and warnings end ``make docs``.
"""

import os
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.logging import getLogger

_log = getLogger(__name__)


def _is_local(link: nodes.reference) -> bool:
    uri = link.get("refuri", "")
    return bool(uri) and ":" not in uri and not uri.startswith("#")


def _folder_of(link: nodes.reference, page: Path) -> Path:
    """Where the text with `link` stands, which a page may have included."""
    node: Any = link
    while node is not None:
        # docutils names an included file as it is seen from where it was started.
        if (source := getattr(node, "source", None)) and os.path.isfile(source):
            return Path(source).absolute().parent
        node = node.parent
    return page.parent


class LinkedFiles(SphinxTransform):
    """Finds out what each link is to, as soon as a page has been read."""

    # Before Sphinx collects the downloads, at 880.
    default_priority = 860

    def apply(self, **_: Any) -> None:
        for link in list(self.document.findall(nodes.reference)):
            if _is_local(link):
                self._resolve(link)

    def _resolve(self, link: nodes.reference) -> None:
        path, _, fragment = link["refuri"].partition("#")
        page = Path(self.env.doc2path(self.env.docname))
        target = (_folder_of(link, page) / path).resolve()
        if (docname := self._page_of(target)) is not None:
            link["page"], link["section"] = docname, fragment
        elif path.endswith(".rst") or not target.is_file():
            _log.warning("no page or file: %s", link["refuri"], location=link)
        else:
            self._download(link, target)

    def _page_of(self, target: Path) -> str | None:
        source = Path(self.env.srcdir)
        for name, docname in self.config.linked_files_pages.items():
            if target == (source / name).resolve():
                return str(docname)
        docname = self.env.path2doc(target)
        return docname if docname in self.env.found_docs else None

    def _download(self, link: nodes.reference, target: Path) -> None:
        path = os.path.relpath(target, self.env.srcdir)
        link.replace_self(
            download_reference("", "", *link.children, reftarget=f"/{path}")
        )


class LinkedSections(SphinxPostTransform):
    """Points the links to the pages, when all of these have been read."""

    default_priority = 5

    def run(self, **_: Any) -> None:
        for link in self.document.findall(nodes.reference):
            if "page" in link:
                self._point(link, link["page"], link["section"])

    def _point(self, link: nodes.reference, docname: str, section: str) -> None:
        if section and section not in self.env.get_doctree(docname).ids:
            _log.warning("no section %s in %s", section, docname, location=link)
        uri = self.app.builder.get_relative_uri(self.env.docname, docname)
        link["refuri"] = f"{uri}#{section}" if section else uri
        link["internal"] = True


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("linked_files_pages", {}, "env")
    app.add_transform(LinkedFiles)
    app.add_post_transform(LinkedSections)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
