"""Institution of each case, from a column, from the file's name, or the one that a mapping declares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from client.table.cells import folded
from client.table.mapping import SiteSpec
from client.table.rows import Account, Loaded
from common.errors import Fault


def institution_of_each(
    spec: SiteSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]
) -> list[str]:
    """The institution of each case. Only an empty cell is missing here: an institution may be
    called `NA`."""
    table = tables.get(spec.table)
    has = table is not None and spec.column_of(table.parts[0]) is not None
    if spec.constant and (not spec.column or (table is not None and not has)):
        return [spec.constant] * len(flow.ids)
    if table is None:
        return [""] * len(flow.ids)
    columns = tuple(alias.name for alias in spec.column)
    cells = table.hospitals if spec.from_file else table.cells(columns, faults)
    if cells is None:
        return [""] * len(flow.ids)
    names = {folded(k): v for k, v in spec.names.items()}
    texts = cells if spec.from_file else _texts(spec, table)
    called = {text: names.get(folded(text), text) for text in set(texts)}
    counted_rows = np.flatnonzero(flow.mask if table is flow.index else table.cases).tolist()
    empty = [row for row in counted_rows if not texts[row]]
    if empty:
        faults.append(
            Fault(
                "D01",
                table.where(" or ".join(columns)),
                f"the institution is empty in {len(empty)} rows ({table.rows(empty)})",
                "Fill in the institution of each row",
            )
        )
    row_counts: dict[str, dict[str, int]] = defaultdict(dict)
    for row in counted_rows:
        rows, name = row_counts[table.ids[row]], called[texts[row]]
        rows[name] = rows.get(name, 0) + 1
    for patient in flow.ids:
        if patient not in flow.gone and not row_counts.get(patient):
            flow.drop(patient, "no row that names the institution (D05)")
        elif patient not in flow.gone and len(row_counts[patient]) > 1 and spec.pick == "agree":
            flow.drop(patient, "rows name different institutions (D02)")
    several = sum(len(v) > 1 for v in row_counts.values())
    if several and spec.pick == "most":
        flow.notes.append(
            f"{several} patients have rows of several institutions: the one with most rows "
            "counts, as the mapping declares"
        )
    return [
        min(row_counts[p], key=lambda name: (-row_counts[p][name], name))
        if row_counts.get(p)
        else ""
        for p in flow.ids
    ]


def _texts(spec: SiteSpec, table: Loaded) -> list[str]:
    """What each row calls its institution: of the columns that its part has, the first that names
    one."""
    texts: list[str] = []
    for part in table.parts:
        in_part = [""] * len(part)
        for alias in spec.column:
            if alias.name in part.index and "" in in_part:
                cells = part.column(alias.name)
                named = {cell: spec.text(cell, alias) for cell in set(cells)}
                pairs = zip(in_part, cells, strict=True)
                in_part = [text or named[cell] for text, cell in pairs]
        texts += in_part
    return texts
