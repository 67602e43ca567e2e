"""report.html of a comparison: tables and pictures in one file that opens from disk."""

import base64
from collections.abc import Sequence
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from mstg_jax.data.pipeline import Example
from mstg_jax.evaluation.comparing.comparison import Comparison, Contender, typical, worst
from mstg_jax.evaluation.scoring.measures import DICE, TESTED
from mstg_jax.evaluation.scoring.scores import Score, known, none_between
from mstg_jax.evaluation.showing.charts import gamma_chart, volume_chart
from mstg_jax.evaluation.showing.figures import palette, sequence_figure, slices_figure
from mstg_jax.evaluation.showing.sections import Section, sections
from mstg_jax.evaluation.showing.view import view_of

FAILURES = 2
"""Worst patients shown for each method."""
NONE_BETWEEN = "no patient has frames strictly between ED and ES"
WIDTHS = (1300, 1000, 800, 600)
"""Pixels of an embedded picture, at most: the first with which the report keeps below LIMIT. The
files in pictures/ keep all of theirs."""
LIMIT = 14_000_000
"""Bytes of a report that browsers and mail still like."""
WHITE = 127
"""The last grey of figures.palette."""
SMALL = 200_000
"""Bytes up to which a picture is embedded as it is."""


class Picture(NamedTuple):
    path: Path
    caption: str


class Chapter(NamedTuple):
    title: str
    note: str
    pictures: list[Picture]


def write_report(
    out: Path,
    results: Comparison,
    contenders: Sequence[Contender],
    validation: Sequence[Example],
) -> Path:
    """Draws below out/pictures and writes out/report.html; results are comparison.compare's.

    The shown sequences are generated again, which is the same bytes and needs less memory than
    keeping all.
    """
    folder = out / "pictures"
    folder.mkdir(exist_ok=True)
    chapters = [
        _typical(folder, results, contenders, validation),
        _curves(folder, results),
        _failures(folder, results, contenders, validation),
    ]
    path = out / "report.html"
    html = ""
    for width in WIDTHS:
        html = _html(results, sections(results), chapters, width)
        if len(html) <= LIMIT:
            break
    path.write_text(html, encoding="utf-8")
    return path


def _typical(
    folder: Path,
    results: Comparison,
    contenders: Sequence[Contender],
    validation: Sequence[Example],
) -> Chapter:
    """The median patient of the first method: every method's frames, then slice by slice."""
    first = contenders[0].name
    score = typical(results.methods[first].patients)
    example = _named(validation, score.id)
    view = view_of(example)
    made = {c.name: c.generate(example, results.seed).frames for c in contenders}
    truth, gammas = example.frames, example.gammas
    path = folder / _file("frames", example.id)
    strip = sequence_figure(path, truth, made, gammas, view)
    pictures = [Picture(strip, "Frames from ED to ES, and their absolute errors")]
    for number, (name, frames) in enumerate(made.items(), 1):
        path = folder / _file("slices", str(number), name, example.id)
        slices_figure(path, truth, frames, gammas, view)
        pictures.append(Picture(path, f"{name}: slices through the left ventricle"))
    which = NONE_BETWEEN if none_between([score]) else f"the patient of median PSNR for {first}"
    return Chapter("A typical patient", f"{example.id}, {which}; on the model's grid.", pictures)


def _curves(folder: Path, results: Comparison) -> Chapter:
    bins = {name: method.over_gamma for name, method in results.methods.items()}
    patients = {name: method.patients for name, method in results.methods.items()}
    pictures = []
    if over := gamma_chart(folder / "gamma.png", bins):
        text = "Inside the field of view; 95 % bootstrap intervals over patients"
        pictures.append(Picture(over, text))
    if volumes := volume_chart(folder / "volumes.png", patients):
        text = "Left ventricle: lines from warped labels, circles from the truth's labels"
        pictures.append(Picture(volumes, text))
    return Chapter("Over time", "" if over else f"No curves of quality: {NONE_BETWEEN}.", pictures)


def _failures(
    folder: Path,
    results: Comparison,
    contenders: Sequence[Contender],
    validation: Sequence[Example],
) -> Chapter:
    pictures = []
    for number, contender in enumerate(contenders, 1):
        lowest = worst(results.methods[contender.name].patients, FAILURES)
        for rank, score in enumerate(lowest, 1):
            example = _named(validation, score.id)
            made = {contender.name: contender.generate(example, results.seed).frames}
            path = folder / _file("worst", f"{number}.{rank}", contender.name, example.id)
            sequence_figure(path, example.frames, made, example.gammas, view_of(example))
            pictures.append(Picture(path, f"{contender.name}, {example.id}: {_line(score)}"))
    note = f"The {FAILURES} patients of lowest PSNR inside the field of view, for each method."
    return Chapter("Failures", note if pictures else f"None to rank: {NONE_BETWEEN}.", pictures)


def _line(score: Score) -> str:
    shown = [(m, m.of(score)) for m in (*TESTED, DICE)]
    return ", ".join(f"{m.title} {m.cell(value)}" for m, value in shown if known(value))


def _named(validation: Sequence[Example], name: str) -> Example:
    return next(example for example in validation if example.id == name)


def _file(*names: str) -> str:
    """A file's name that every system takes; long ones are cut."""
    safe = ("".join(c if c.isalnum() or c in "-_." else "-" for c in name) for name in names)
    return "-".join(name[:60] for name in safe) + ".png"


def _html(
    results: Comparison, tables: Sequence[Section], chapters: Sequence[Chapter], width: int
) -> str:
    return _template().render(
        names=list(results.methods),
        data=results.data,
        sections=tables,
        chapters=chapters,
        embedded=partial(data_uri, width=width),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("mstg_jax.evaluation.showing", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.jinja")


def data_uri(path: Path, width: int) -> str:
    """A PNG as a data URI. Above SMALL it becomes at most `width` pixels wide, in the 256 colours
    of the figures: 128 greys and the scale of the errors."""
    content = path.read_bytes()
    if len(content) > SMALL:
        with Image.open(path) as image:
            picture = image.convert("RGB")
        height = round(picture.height * width / picture.width)
        picture.thumbnail((width, height), Image.Resampling.LANCZOS)
        colours = Image.new("P", (1, 1))
        colours.putpalette(palette())
        indices = np.array(picture.quantize(palette=colours, dither=Image.Dither.NONE))
        indices[np.all(np.asarray(picture) == 255, axis=-1)] = WHITE  # pillow's is a light grey
        small = Image.fromarray(indices, mode="P")
        small.putpalette(palette())
        buffer = BytesIO()
        small.save(buffer, "PNG")
        content = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(content).decode()
