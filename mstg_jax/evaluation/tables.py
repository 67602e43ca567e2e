"""Scores as tables: rows of cells, the header first, and their Markdown."""

import html
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

Table = list[list[str]]
"""Rows of cells, the header first; the first column names, the others hold numbers."""
MISSING = "–"
ARROWS = {True: " ↑", False: " ↓", None: ""}


class Metric(NamedTuple):
    """A number of a patient's scores: `path` leads to it in what protocol.score returns."""

    path: tuple[str, ...]
    title: str
    form: str
    up: bool | None = None
    """Whether more is better."""

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def header(self) -> str:
        return self.title + ARROWS[self.up]

    def of(self, score: dict[str, Any]) -> float | None:
        """None where the score does not have it."""
        value: Any = score
        for name in self.path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def cell(self, value: float | None) -> str:
        return MISSING if value is None else self.form.format(value)

    def interval(self, found: dict[str, Any]) -> str:
        """The cell of what statistics.interval returns: mean [low, high]."""
        cells = [self.cell(found[name]) for name in ("mean", "low", "high")]
        return cells[0] if found["low"] is None else f"{cells[0]} [{cells[1]}, {cells[2]}]"


TESTED = (
    Metric(("between", "psnr_fov"), "PSNR (dB)", "{:.2f}", True),
    Metric(("between", "ssim_fov"), "SSIM", "{:.3f}", True),
    Metric(("between", "nmse_fov"), "NMSE", "{:.4f}", False),
)
"""Inside the field of view, frames strictly between ED and ES: what methods are tested on."""
QUALITY = (
    *TESTED,
    Metric(("between", "psnr"), "PSNR, whole volume", "{:.2f}", True),
    Metric(("between", "ssim"), "SSIM, whole volume", "{:.3f}", True),
    Metric(("between", "nmse"), "NMSE, whole volume", "{:.4f}", False),
)
DICE = Metric(("dice", "mean"), "Dice at ES", "{:.3f}", True)
FOLDING = Metric(("folding",), "Folding", "{:.3%}", False)
SECONDS = Metric(("seconds",), "Seconds per sequence", "{:.3g}", False)
MOTION = (
    Metric(("dice", "lv"), "Dice LV", "{:.3f}", True),
    Metric(("dice", "rv"), "Dice RV", "{:.3f}", True),
    Metric(("dice", "myo"), "Dice myocardium", "{:.3f}", True),
    DICE._replace(title="Dice mean"),
    Metric(("ejection_fraction", "error"), "EF error", "{:.1%}", False),
    Metric(("lv_volume_error",), "LV volume error", "{:.1%}", False),
    FOLDING,
    Metric(("roughness", "ratio"), "Roughness / truth's", "{:.2f}"),
)


def score_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown table of averaged scores (protocol.average), a row for each method, the protocol
    named above it."""
    columns = (*TESTED, DICE, FOLDING)
    cells = [["Method", "Patients", *(metric.header for metric in columns)]]
    for name, row in rows.items():
        found = [metric.cell(metric.of(row)) for metric in columns]
        cells.append([name, str(row["patients"]), *found])
    protocols = sorted({row["protocol"] for row in rows.values()})
    without = max((row["none_between"] for row in rows.values()), default=0)
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
