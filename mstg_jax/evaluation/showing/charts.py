"""Curves of a comparison: metrics over gamma, and the left ventricle's volume over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mstg_jax.evaluation.comparing.comparison import Bin
from mstg_jax.evaluation.comparing.statistics import Interval
from mstg_jax.evaluation.scoring.measures import TESTED, Metric
from mstg_jax.evaluation.scoring.scores import Score, known

DPI = 150
HUES = [colormaps["tab10"](i) for i in range(10)]
LINES = ("-", "--", ":", "-.")
"""They take turns, because curves of methods that are alike hide one another."""


def gamma_chart(path: Path, methods: Mapping[str, Sequence[Bin]]) -> Path | None:
    """The tested metrics of methods in bins of gamma, with their intervals. A metric without values
    has no panel; None if no metric has any: no frames between ED and ES."""
    every = {metric: [_curve(bins, metric) for bins in methods.values()] for metric in TESTED}
    curves = {metric: own for metric, own in every.items() if any(own)}
    if not curves:
        return None
    figure, panels = _panels(len(curves), width=3.6)
    for axes, (metric, own) in zip(panels, curves.items(), strict=True):
        for i, bins in enumerate(own):
            gammas = [b.gamma for b in bins]
            found = [b.intervals[metric] for b in bins]
            colour = HUES[i % len(HUES)]
            style = {"ls": LINES[i % len(LINES)], "marker": "o", "ms": 3}
            axes.plot(gammas, [f.mean for f in found], color=colour, **style)
            low, high = [f.low for f in found], [f.high for f in found]
            if all(map(known, low)):
                axes.fill_between(gammas, low, high, color=colour, alpha=0.15, lw=0)
        axes.set(title=metric.header, xlabel="γ (0 ED, 1 ES)", xlim=(0, 1))
        positive = any(b.intervals[metric].mean > 0 for bins in own for b in bins)
        if positive and not metric.up:
            axes.set_yscale("log")  # a method that fails would flatten the others' curves
    legend = figure.legend(
        panels[0].lines,
        list(methods),  # as they are: matplotlib leaves labels with a _ in front out
        loc="outside lower center",  # curves of many methods leave no room beside them
        ncols=min(len(methods), 8),
        fontsize=8,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _save(figure, path)


def _curve(bins: Sequence[Bin], metric: Metric) -> list[Bin]:
    """The bins of gamma in which the metric has a value."""
    return [b for b in bins if known(b.intervals[metric].mean)]


def volume_chart(path: Path, methods: Mapping[str, Sequence[Score]]) -> Path | None:
    """The left ventricle's volume over gamma, a panel for each method that warps labels; None if
    no method does. A patient has one colour: a line where it is generated, circles where the truth
    is labelled; at most ten colours take turns."""
    curves = {
        name: own
        for name, scores in methods.items()
        if (own := [s.per_frame for s in scores if s.dice is not None])
    }
    if not curves:
        return None
    figure, panels = _panels(len(curves), width=3.0, sharey=True)
    for axes, (name, patients) in zip(panels, curves.items(), strict=True):
        for i, frames in enumerate(patients):
            colour = HUES[i % len(HUES)]
            made = [(f.gamma, f.lv_volume) for f in frames]
            true = [(f.gamma, f.lv_volume_truth) for f in frames]
            for curve, style in ((made, {"lw": 1}), (true, {"ls": "", "marker": "o", "ms": 5})):
                points = [(gamma, volume) for gamma, volume in curve if known(volume)]
                xy = [p[0] for p in points], [p[1] for p in points]
                axes.plot(*xy, color=colour, markerfacecolor="none", **style)
        axes.set_title(name, parse_math=False)
        axes.set(xlabel="γ (0 ED, 1 ES)")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    panels[0].set(ylabel="LV volume, share of ED's", ylim=(0, None))
    return _save(figure, path)


def phase_chart(path: Path, factors: Mapping[int, Mapping[str, Sequence[Interval]]]) -> Path:
    """PSNR of methods over the phases of the cycle, a panel for each factor of upsampling."""
    figure, panels = _panels(len(factors), width=3.6, sharey=True)
    for axes, (factor, methods) in zip(panels, factors.items(), strict=True):
        for i, (name, found) in enumerate(methods.items()):
            phases = [(k + 0.5) / len(found) for k in range(len(found))]
            style = {"ls": LINES[i % len(LINES)], "marker": "o", "ms": 3, "label": name}
            axes.plot(phases, [f.mean for f in found], color=HUES[i % len(HUES)], **style)
        axes.set(title=f"factor {factor}", xlabel="phase of the cycle, 0 at ED", xlim=(0, 1))
    panels[0].set(ylabel="PSNR (dB)")
    legend = panels[-1].legend(fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _save(figure, path)


def _panels(count: int, width: float, sharey: bool = False) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width * count + 0.4, 3.2), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, count, squeeze=False, sharey=sharey)[0])
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, format="png", metadata={"Software": None})
    return path
