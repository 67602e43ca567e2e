"""Pictures of generated sequences: figures in the manner of the paper's 4 and 5, and animations.

Sequences are (t d h w), ED first and ES last, ED-normalised. All panels of a picture share one
intensity window, the truth's 1st to 99.5th percentile, and all error maps one scale, a third of
that window, so that pictures of one patient compare whatever the method. The same input gives
the same bytes.
"""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8
from matplotlib import colormaps, get_data_path
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from mstg_jax.evaluation.showing.view import View

Window: TypeAlias = tuple[Normalize, Normalize]
"""Scales of the intensities and of the errors."""
COLOURS = ("gray", "inferno")
"""Colour maps of the intensities and of the errors."""
UNITS = ("intensity\n(ED range = 1)", "absolute error\n(ED range = 1)")
DPI = 200
PANEL, LEFT, RIGHT, TOP, TITLE, GAP, GROUP_GAP = 1.3, 0.62, 0.95, 0.3, 0.25, 0.03, 0.14
"""Inches: width of a panel, the margins, the title, the gaps between panels and groups of rows."""
BEAT = 1500
"""Milliseconds of an animated beat, ED to ES and back, whatever the number of frames."""
HEIGHT, STRIP, SEAM = 288, 24, 4
"""Pixels in an animation: least height of a panel, height of the captions, width of the seams."""


@dataclass(frozen=True)
class _Row:
    group: str
    label: str
    images: list[np.ndarray | None]
    """One for each column; None leaves its place empty."""
    error: bool = False


def sequence_figure(
    path: Path,
    truth: Float32[np.ndarray, "t d h w"] | None,
    generated: dict[str, Float32[np.ndarray, "t d h w"]],
    gammas: Float32[np.ndarray, " t"],
    view: View,
    *,
    columns: int = 7,
) -> Path:
    """One slice over time, after the paper's figure 4: the truth, then each method and its error.

    At most `columns` frames are shown, evenly spread from ED to ES. Without a truth there are no
    error maps, and the first method sets the intensity window.
    """
    shown = _spread(0, len(gammas) - 1, columns)
    methods = {name: view.cut(frames[shown]) for name, frames in generated.items()}
    real = None if truth is None else view.cut(truth[shown])
    rows = [] if real is None else [_Row("", "truth", [*real])]
    for name, made in methods.items():
        rows.append(_Row(name, "generated", [*made]))
        if real is not None:
            rows.append(_Row(name, "error", [*np.abs(made - real)], error=True))
    window = _window(next(iter(methods.values())) if real is None else real)
    return _montage(path, rows, _titles(gammas[shown]), view, window)


def slices_figure(
    path: Path,
    truth: Float32[np.ndarray, "t d h w"] | None,
    generated: Float32[np.ndarray, "t d h w"],
    gammas: Float32[np.ndarray, " t"],
    view: View,
    *,
    positions: int = 4,
    columns: int = 7,
) -> Path:
    """Slice positions over time, after the paper's figure 5: the truth above the generated frames.

    `positions` slices are evenly spread over the left ventricle, else over the field of view; z is
    measured from the first of them.
    """
    shown = _spread(0, len(gammas) - 1, columns)
    both = {"generated": generated} if truth is None else {"truth": truth, "generated": generated}
    slices = _spread(*view.slices, positions)
    rows = []
    for z in slices:
        place = f"z = {(z - slices[0]) * view.spacing[0]:.0f} mm"
        rows += [_Row(place, k, [*view.cut(frames[shown], z)]) for k, frames in both.items()]
    reference = next(iter(both.values()))
    window = _window(reference[np.ix_(shown, slices)][..., view.rows, view.columns])
    return _montage(path, rows, _titles(gammas[shown]), view, window)


def validation_picture(
    path: Path,
    truth: Float32[np.ndarray, "t d h w"],
    generated: Float32[np.ndarray, "t d h w"],
    gammas: Float32[np.ndarray, " t"],
    view: View,
    title: str,
    *,
    columns: int = 4,
) -> Path:
    """ED, then generated frames above the truth and the error, for a patient during training."""
    shown = _spread(0, len(gammas) - 1, columns + 1)[1:]
    ed, real, made = view.cut(truth)[0], view.cut(truth[shown]), view.cut(generated[shown])
    rows = [
        _Row("", "generated", [ed, *made]),
        _Row("", "truth", [None, *real]),
        _Row("", "error", [None, *np.abs(made - real)], error=True),
    ]
    titles = ["ED (input)", *_titles(gammas[shown])]
    return _montage(path, rows, titles, view, _window(real), title)


def animation(
    path: Path,
    sequences: dict[str, Float32[np.ndarray, "t h w"]],
    gammas: Float32[np.ndarray, " t"],
    *,
    aspect: float = 1.0,
    error: bool = False,
    whole: bool = False,
) -> Path:
    """A beating GIF, the sequences (View.cut) side by side: ED to ES and back in 1.5 s, for ever;
    with `whole` the frames are a whole beat, and `gammas` their phases.

    The window is that of the sequence named `truth`, else of the first one; `error` adds the error
    map of every other sequence, and raises ValueError without a truth. `aspect` is that of View.
    """
    truth = sequences.get("truth")
    if error and truth is None:
        raise ValueError(f"{path}: error maps need a sequence `truth`; got {list(sequences)}")
    window = _window(next(iter(sequences.values())) if truth is None else truth)
    panels = [(name, frames, False) for name, frames in sequences.items()]
    if error:
        others = [(name, frames) for name, frames, _ in panels if name != "truth"]
        scale = f"error, 0 to {window[True].vmax:.2f}"
        panels += [(f"{name}: {scale}", np.abs(frames - truth), True) for name, frames in others]
    h, w = panels[0][1].shape[1:]
    zoom = -(-HEIGHT // h)
    size = (w * zoom, round(h * zoom * aspect))
    head = _side_by_side([_caption(name, size[0]) for name, *_ in panels])
    pictures = []
    for i, gamma in enumerate(gammas.tolist()):
        middle = _side_by_side([_indices(f[i], window[heat], size, heat) for _, f, heat in panels])
        text = f"phase {gamma:.2f}" if whole else f"ED (0) → ES (1): γ = {gamma:.2f}"
        foot = _caption(text, head.shape[1])
        pictures.append(Image.fromarray(np.vstack([head, middle, foot]), mode="P"))
        pictures[-1].putpalette(palette())
    beat = pictures if whole else pictures + pictures[-2:0:-1]
    # Browsers slow frames under 20 ms down; the format counts in 10 ms.
    duration = max(20, round(BEAT / len(beat), -1))
    options = {"save_all": True, "append_images": beat[1:], "loop": 0, "optimize": False}
    beat[0].save(path, "GIF", duration=duration, **options)
    return path


def _spread(first: int, last: int, most: int) -> list[int]:
    """At most `most` whole numbers from first to last, both included, evenly spread."""
    return [round(i) for i in np.linspace(first, last, min(most, last - first + 1)).tolist()]


def _titles(gammas: Float32[np.ndarray, " n"]) -> list[str]:
    names = {0.0: "ED", 1.0: "ES"}
    return [names.get(gamma, f"γ = {gamma:.2f}") for gamma in gammas.tolist()]


def _window(reference: np.ndarray) -> Window:
    low, high = np.percentile(reference, (1, 99.5)).tolist()
    return Normalize(low, high, clip=True), Normalize(0, (high - low) / 3, clip=True)


def _montage(
    path: Path, rows: list[_Row], titles: list[str], view: View, window: Window, title: str = ""
) -> Path:
    """Rows of panels at fixed places in inches, so that nothing moves or overlaps."""
    h, w = view.rows.stop - view.rows.start, view.columns.stop - view.columns.start
    panel, groups = PANEL * h * view.aspect / w, len({row.group for row in rows})
    width = LEFT + len(titles) * (PANEL + GAP) + RIGHT
    top = TOP + (TITLE if title else 0)
    height = top + len(rows) * (panel + GAP) + groups * GROUP_GAP
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def axes_at(x: float, y: float, wide: float, high: float) -> Axes:
        return figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))

    def text_at(x: float, y: float, text: str, size: int, rotation: int = 90) -> None:
        place = (x / width, 1 - y / height)
        centred = {"ha": "center", "va": "center", "parse_math": False}
        figure.text(*place, text, size=size, rotation=rotation, **centred)

    text_at(width / 2, TITLE / 2 + 0.03, title, 9, rotation=0)
    for column, text in enumerate(titles):
        text_at(LEFT + column * (PANEL + GAP) + PANEL / 2, top - 0.11, text, 8, rotation=0)
    y, bars = top, {}
    for group, members in groupby(rows, key=lambda row: row.group):
        start = y
        for row in members:
            bars.setdefault(row.error, y)
            text_at(0.47, y + panel / 2, row.label, 8)
            for column, image in enumerate(row.images):
                if image is not None:
                    axes = axes_at(LEFT + column * (PANEL + GAP), y, PANEL, panel)
                    style = {"cmap": COLOURS[row.error], "norm": window[row.error]}
                    axes.imshow(image, interpolation="bicubic", aspect="auto", **style)
                    axes.set_axis_off()
            y += panel + GAP
        text_at(0.18, (start + y - GAP) / 2, group, 9)
        y += GROUP_GAP
    _scale_bar(figure.axes[0], view.spacing[2])
    for error, y in bars.items():
        axes = axes_at(width - RIGHT + 0.1, y + 0.1 * panel, 0.1, 0.8 * panel)
        mappable = ScalarMappable(window[error], COLOURS[error])
        figure.colorbar(mappable, cax=axes, extend="max" if error else "both")
        axes.tick_params(labelsize=7, length=2)
        axes.set_ylabel(UNITS[error], size=7)
    figure.savefig(path, format="png", metadata={"Software": None})
    return path


def _scale_bar(axes: Axes, spacing: float, millimetres: int = 20) -> None:
    place = axes.get_xaxis_transform()
    left = 0.06 * axes.get_xlim()[1]
    axes.plot([left, left + millimetres / spacing], [0.07] * 2, "w-", lw=1.5, transform=place)
    axes.text(left, 0.1, f"{millimetres} mm", color="white", fontsize=6, transform=place)


def _indices(
    image: Float32[np.ndarray, "h w"], norm: Normalize, size: tuple[int, int], heat: bool
) -> UInt8[np.ndarray, "high wide"]:
    """The enlarged image as indices of the palette."""
    large = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    return np.round(127 * norm(large).data).astype(np.uint8) + np.uint8(128 * heat)


def _side_by_side(images: list[UInt8[np.ndarray, "h _"]]) -> UInt8[np.ndarray, "h w"]:
    seam = np.zeros((len(images[0]), SEAM), np.uint8)
    return np.hstack([part for image in images for part in (seam, image)][1:])


def _caption(text: str, width: int) -> UInt8[np.ndarray, "h w"]:
    """White on black; in matplotlib's font, because pillow's own has no Greek letters."""
    font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 13)
    image = Image.new("L", (width, STRIP))
    ImageDraw.Draw(image).text((width // 2, STRIP // 2), text, 255, font, anchor="mm")
    return np.asarray(image) // 2


def palette() -> list[int]:
    """128 greys, then 128 colours of the error scale."""
    colours = np.concatenate([colormaps[name](np.linspace(0, 1, 128))[:, :3] for name in COLOURS])
    return np.round(255 * colours).astype(np.uint8).ravel().tolist()
