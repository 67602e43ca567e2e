"""A picture of new patients: ED, the middle and ES of each, with the outlines of their labels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mstg_jax.evaluation.showing.view import heart_view
from mstg_jax.hearts import Heart

COLOURS = ("tab:blue", "tab:orange", "tab:red")
"""Right ventricle, myocardium, left ventricle."""
ACROSS, PANEL = 4, 1.3


def hearts_figure(
    path: Path,
    hearts: Mapping[str, Heart],
    spacing: tuple[float, float, float],
) -> Path:
    """The slice with the largest left ventricle, four patients beside each other.

    spacing: (d, h, w) in mm.
    """
    across = min(ACROSS, len(hearts))
    rows = -(-len(hearts) // across)
    figure = Figure(figsize=(3 * PANEL * across, rows * (PANEL + 0.25)), dpi=150)
    FigureCanvasAgg(figure)
    for number, (name, heart) in enumerate(hearts.items()):
        view = heart_view(np.ones(heart.frames.shape[1:], bool), heart.labels[0], spacing)
        last = len(heart.frames) - 1
        top = np.quantile(heart.frames[:, view.z], 0.995)
        for column, frame in enumerate((0, last // 2, last)):
            axes = figure.add_subplot(rows, 3 * across, 3 * number + column + 1)
            axes.imshow(heart.frames[frame, view.z], cmap="gray", vmin=0, vmax=top)
            for label, colour in enumerate(COLOURS, 1):
                inside = heart.labels[frame, view.z] == label
                if inside.any():
                    axes.contour(inside, [0.5], colors=colour, linewidths=0.7)
            axes.set_axis_off()
            if column == 1:
                axes.set_title(f"{name}, EF {heart.ejection_fraction:.0%}", fontsize=7)
    figure.subplots_adjust(0, 0, 1, 1 - 0.2 / figure.get_figheight(), 0.02, 0.16)
    figure.savefig(path)
    return path
