"""The PDF's structure, for screen readers and for text that is copied: what is a heading, a table's cell, a figure and its alternative.

ReportLab draws, and knows nothing of structure (ISO 32000-1, 14.6 to 14.8). So whatever is drawn is marked with a number, and a tree of
elements that name these numbers is added at the end. An element's path tells its place, as ("Table.3", "TR.0", "TH.1").
"""

from __future__ import annotations

from typing import Any

from reportlab.pdfbase.pdfdoc import PDFArray, PDFDictionary, PDFString

Path = tuple[str, ...]


class Marks:
    """Marked content of a document, in the order of drawing."""

    def __init__(self) -> None:
        self._pages: list[tuple[Any, list[Path]]] = []
        """(reference of the page, path of each of its numbers)."""
        self._alternatives: dict[Path, str] = {}
        self._drawn: set[Path] = set()

    def begin(self, canvas: Any, path: Path, alternative: str = "", once: bool = False) -> None:
        """`once`: what is repeated on a further page is no content there."""
        if once and path in self._drawn:
            canvas._code.append("/Artifact BMC")
            return
        self._drawn.add(path)
        page = canvas._doc.thisPageRef()
        if not self._pages or self._pages[-1][0].name != page.name:
            self._pages.append((page, []))
        numbers = self._pages[-1][1]
        canvas._code.append(f"/{_role(path)} <</MCID {len(numbers)}>> BDC")
        numbers.append(path)
        if alternative:
            self._alternatives[path] = alternative

    @staticmethod
    def end(canvas: Any) -> None:
        canvas._code.append("EMC")

    def write(self, document: Any) -> None:
        """Add the tree to the document's catalog."""
        root = PDFDictionary({"Type": "/StructTreeRoot"})
        at_root = document.Reference(root)
        whole = _Node(document, "Document", at_root)
        nodes: dict[Path, _Node] = {(): whole}
        parents = []
        for page, paths in self._pages:
            here = []
            for number, path in enumerate(paths):
                for k in range(1, len(path) + 1):
                    if path[:k] not in nodes:
                        nodes[path[:k]] = _Node(document, _role(path[:k]), nodes[path[: k - 1]].reference)
                        nodes[path[: k - 1]].kids.append(nodes[path[:k]].reference)
                nodes[path].kids.append(PDFDictionary({"Type": "/MCR", "Pg": page, "MCID": number}))
                here.append(nodes[path].reference)
            parents.append(PDFArray(here))
        # a header among cells is its row's, one among headers its column's
        of_cells = {path[:-1] for path in nodes if path and _role(path) == "TD"}
        for path, node in nodes.items():
            scope = ("Row" if path[:-1] in of_cells else "Column") if path and _role(path) == "TH" else ""
            node.close(self._alternatives.get(path, ""), scope)
        pairs = [x for n, array in enumerate(parents) for x in (n, document.Reference(array))]
        root.dict |= {
            "K": PDFArray([whole.reference]),
            "ParentTree": document.Reference(PDFDictionary({"Nums": PDFArray(pairs)})),
            "ParentTreeNextKey": len(parents),
        }
        catalog = document.Catalog
        catalog.StructTreeRoot, catalog.MarkInfo = at_root, PDFDictionary({"Marked": "true"})
        for n, (reference, _) in enumerate(self._pages):
            page = document.idToObject[reference.name]
            page.__NoDefault__ = [*page.__NoDefault__, "StructParents", "Tabs"]
            page.StructParents, page.Tabs = n, "/S"


class _Node:
    def __init__(self, document: Any, role: str, parent: Any) -> None:
        self._dictionary = PDFDictionary({"Type": "/StructElem", "S": f"/{role}", "P": parent})
        self.reference = document.Reference(self._dictionary)
        self.kids: list[Any] = []

    def close(self, alternative: str, scope: str) -> None:
        more: dict[str, Any] = {"K": PDFArray(self.kids)}
        if alternative:
            more["Alt"] = PDFString(alternative)
        if scope:
            more["A"] = PDFDictionary({"O": "/Table", "Scope": f"/{scope}"})
        self._dictionary.dict |= more


def _role(path: Path) -> str:
    return path[-1].partition(".")[0]
