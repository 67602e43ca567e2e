"""Scores as tables: rows of cells, the header first, and their Markdown."""

import html
import re
from collections.abc import Sequence
from typing import TypeAlias

from mstg_jax.evaluation.scoring.measures import DICE, FOLDING, TESTED
from mstg_jax.evaluation.scoring.scores import Average

Table: TypeAlias = list[list[str]]
"""Rows of cells, the header first; the first column names, the others hold numbers."""


def score_table(rows: dict[str, Average]) -> str:
    """Markdown table of averaged scores, a row for each method, the protocol named above it."""
    columns = (*TESTED, DICE, FOLDING)
    cells = [["Method", "Patients", *(metric.header for metric in columns)]]
    for name, row in rows.items():
        found = [metric.cell(metric.of(row)) for metric in columns]
        cells.append([name, str(row.patients), *found])
    protocols = sorted({row.protocol for row in rows.values()})
    without = max((row.none_between for row in rows.values()), default=0)
    return f"{caption(protocols, without)}\n\n{markdown(cells)}"


def caption(protocols: Sequence[str], none_between: int) -> str:
    """What PSNR, SSIM, NMSE and Dice are taken over."""
    exception = f" (patients without any: {none_between})" if none_between else ""
    return (
        f"Protocol: {', '.join(protocols)}. PSNR, SSIM and NMSE inside the field of view, mean of "
        f"the frames strictly between ED and ES{exception}; Dice is the mean of RV, myocardium "
        "and LV."
    )


def markdown(table: Table) -> str:
    """Names in the cells mean themselves, whatever Markdown or HTML would make of them."""
    header, *rows = [[_escaped(cell) for cell in row] for row in table]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(cell: str) -> str:
    text = html.escape(" ".join(cell.split()), quote=False)
    return re.sub(r"[\\|*`]|(?<=\])\(", r"\\\g<0>", text)
