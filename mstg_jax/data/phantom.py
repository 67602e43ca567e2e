"""A beating-heart phantom in the ACDC layout, with labels in every frame: what runs without data.

All is drawn once, at end diastole; a frame looks up the material point in each voxel, by a map that
is radially piecewise linear between the contours, so texture, papillary muscles and fat move along.
"""

import json
import math
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Int16, Int32, UInt8
from numpy.random import Generator
from scipy import ndimage

from mstg_jax.data.layout import write_patient

MARKER = "phantom.json"
ANGLES = 1024  # directions about the axis in which contours are tabulated; a power of two
FINE = 2  # pixels of the drawing per voxel, each way
THICKENING = 0.35  # growth of the wall's area per radial shortening: the heart shortens as well

Size: TypeAlias = tuple[int, int, int]
Stack: TypeAlias = Float32[np.ndarray, "d h w"]
Contours: TypeAlias = Float32[np.ndarray, "3 d a"]
Cine: TypeAlias = Float32[np.ndarray, "t d h w"]
Labels: TypeAlias = UInt8[np.ndarray, "d h w"]
Drawing: TypeAlias = Float32[np.ndarray, "2 d h2 w2"]

# Ranges to draw from, mm at the base at ED; akinetic is the share of motion that an infarct lacks.
Pathology = namedtuple("Pathology", "radius wall rv_width lv_ef rv_ef akinetic", defaults=(0.0,))
GROUPS = {
    "NOR": Pathology((24, 27), (8, 9.5), (22, 28), (0.52, 0.62), (0.42, 0.55)),
    "DCM": Pathology((30, 34), (7.5, 9), (17, 23), (0.18, 0.3), (0.28, 0.4)),
    "MINF": Pathology((26, 29), (8.5, 10), (18, 24), (0.27, 0.38), (0.4, 0.52), 0.95),
    "HCM": Pathology((22, 25), (13, 16), (17, 23), (0.6, 0.72), (0.45, 0.58)),
    "RV": Pathology((22, 25), (8, 9), (34, 40), (0.48, 0.6), (0.15, 0.32)),
}


class Anatomy(NamedTuple):
    """One patient: lengths in mm; contours are endocardium, epicardium and the RV's free wall."""

    spacing: tuple[float, float, float]
    rest: Float32[np.ndarray, "2 3 d a"]  # at ED, of the tissue that each slice shows at ED, ES
    centre: Float32[np.ndarray, "2 d"]  # the axis in each slice (h, w), from voxel 0
    depth: Float[np.ndarray, " d"]  # of the slices, 0 at the base and 1 at the cavity's apex
    septum: float  # its direction, radians
    shortening: Float32[np.ndarray, " a"]  # share of the endocardium's radius lost at ES
    rv_closing: float  # share of the RV's width lost at ES
    sway: tuple[float, float, float]  # drift (h, w) and twist (radians) at ES
    reach: float  # radius beyond which nothing moves


def _volume_curve(frames: int, systole: int) -> Float[np.ndarray, " t"]:
    """Contraction from ED (0) on: an S to 1 at ES, early filling, rest, atrial filling."""
    times = [0, systole, *(systole + (frames - systole) * np.array([0.5, 0.7, 1]))]
    return np.sin(np.pi / 2 * np.interp(np.arange(frames), times, [0, 1, 0.3, 0.27, 0])) ** 2


def _smooth_noise(rng: Generator, shape: Size, cells: Size) -> Stack:
    """Gaussian field of unit variance with about `cells` independent values along each axis."""
    field = rng.standard_normal(cells, np.float32)
    for axis, (size, count) in enumerate(zip(shape, cells, strict=True)):
        at = np.linspace(0, count - 1, size, dtype=np.float32)[:, None]
        weights = np.exp(-((at - np.arange(count, dtype=np.float32)) ** 2) / 0.7)
        weights /= np.sqrt((weights**2).sum(1, keepdims=True))
        field = np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis)
    return np.ascontiguousarray(field)


def _contract(rest: Contours, shortening: Float32[np.ndarray, " a"], rv_kept: float) -> Contours:
    """The contours at rest, contracted: the wall (nearly) keeps its area and so thickens."""
    endo, epi, free = rest
    inner = endo * (1 - shortening)
    outer = np.sqrt(inner**2 + (epi**2 - endo**2) * (1 + THICKENING * shortening))
    return np.stack([inner, outer, outer + rv_kept * (free - epi)])


def _draw_anatomy(rng: Generator, group: Pathology, size: Size) -> Anatomy:
    # The field of view is that of 10 x 96 x 96 whatever the size: small phantoms hold a heart too.
    in_plane = float(np.float32(rng.uniform(1.4, 1.6) * 96 / min(size[1:])))
    through = float(np.float32(rng.uniform(8, 9.5) * 10 / size[0]))
    radius, wall, rv_width = (rng.uniform(*r) * rng.uniform(0.98, 1.04) for r in group[:3])
    septum = np.pi + rng.uniform(-0.45, 0.15)
    towards = np.arange(ANGLES) * (2 * np.pi / ANGLES) - septum
    waves = (rng.normal(0, 0.014) * np.cos(n * towards + rng.uniform(0, 6)) for n in (2, 3, 4))
    outline = 1 - 0.02 * np.cos(2 * towards) + sum(waves)
    sector = np.exp(2.4 * (np.cos(towards - rng.uniform(-1.2, 1.2)) - 1))
    motion = (1 - group.akinetic * sector) * (1 - 0.08 * np.cos(towards))
    # The right ventricle is an ellipse that holds the axis, so a ray from the axis leaves it once.
    along, shift = (share * (radius + wall + rv_width) for share in (0.58, 0.42))
    across = rng.uniform(1.0, 1.12) * (radius + wall) * (1 + 0.01 * rv_width * (rv_width > 30))
    curve = (np.cos(towards) / along) ** 2 + (np.sin(towards) / across) ** 2
    slope = np.cos(towards) * shift / along**2
    ellipse = (slope + np.sqrt(slope**2 + curve * (1 - (shift / along) ** 2))) / curve
    cavity = through * (size[0] - 0.4) - rng.uniform(0, 4)

    def contours(z: Float[np.ndarray, " d"]) -> Contours:
        cut = np.clip(z[:, None, None] / [cavity, cavity + wall], 0, 1)
        taper, outer_taper = np.moveaxis(np.sqrt(1 - cut**2.5), 2, 0)
        endo = radius * taper * outline
        thickness = np.maximum((radius + wall) * outer_taper * outline - endo, 0)
        epi = endo + thickness * (1 - 0.35 * group.akinetic * sector)
        return np.stack([endo, epi, np.maximum(ellipse * taper, epi)]).astype(np.float32)

    z = rng.uniform(4, 8) + through * np.arange(size[0])
    rest = contours(z)
    rest_es = contours(z - rng.uniform(1.5, 3) * np.clip(1 - z / cavity, 0, 1))
    # sum(endo_es^2 (1 - c motion)^2) = (1 - EF) sum(endo^2), solved for c.
    left = (1 - rng.uniform(*group.lv_ef)) * (rest[0] ** 2).sum()
    area = (rest_es[0] ** 2).sum(0)
    a, b = (area * motion**2).sum(), (area * motion).sum()
    shortening = (motion * (b - np.sqrt(b * b - a * (area.sum() - left))) / a).astype(np.float32)
    # Likewise for the share k of the RV's width that is kept: sum(width k (epi + width k / 2)).
    left = (1 - rng.uniform(*group.rv_ef)) * (rest[2] ** 2 - rest[1] ** 2).sum() / 2
    width = rest_es[2] - rest_es[1]
    a, b = (width**2).sum() / 2, (width * _contract(rest_es, shortening, 1.0)[1]).sum()
    kept = float((np.sqrt(b * b + 4 * a * left) - b) / (2 * a))
    middle = (np.array(size[1:]) - 1) * in_plane / 2 + rng.uniform(-4, 4, 2)
    middle -= 0.5 * rv_width * np.array([np.sin(septum), np.cos(septum)])
    centre = middle[:, None] + rng.uniform(-5, 5, (2, 1)) * np.linspace(-1, 1, size[0])
    sway = rng.normal(0, 0.8), rng.normal(0, 0.8), rng.uniform(0.03, 0.1)
    axis = centre.astype(np.float32), z / cavity, septum
    spacing, reach = (through, in_plane, in_plane), float(rest[2].max() + 25)
    return Anatomy(spacing, np.stack([rest, rest_es]), *axis, shortening, 1 - kept, sway, reach)


def _polar(y: np.ndarray, x: np.ndarray) -> tuple[Stack, Int32[np.ndarray, "d h w"]]:
    """Distance from the axis, and the place of slice and direction in a flat (d a) table."""
    turn = np.rint(np.arctan2(y, x) * np.float32(ANGLES / (2 * np.pi))).astype(np.int32)
    first = np.arange(len(y), dtype=np.int32)[:, None, None] * ANGLES
    return np.sqrt(y * y + x * x), (turn & (ANGLES - 1)) + first


def _paint(canvas: np.ndarray, inside: np.ndarray, value: np.ndarray | float, edge=1.8) -> None:
    """Lay a value over the canvas where the distance inside is positive, with a soft edge (mm)."""
    canvas += np.clip(inside / edge + 0.5, 0, 1) * (value - canvas)


def _draw_chest(rng: Generator, y: np.ndarray, x: np.ndarray, coarse: Stack, fine: Stack) -> Stack:
    """Lung and vessels, vertebra, aorta, liver, chest wall; y, x in mm from the image's middle."""
    field = -2 * float(x.min())
    canvas = np.full_like(fine, 0.05)
    _paint(canvas, fine - 2.2, 0.55, 0.8)
    down, right = (rng.uniform(0.36, 0.46) * field for _ in range(2))
    for above, radius, value in (0, 17, 0.18), (0, 14, 0.42), (rng.uniform(24, 30), 9, 0.7):
        disc = radius - np.sqrt((y - down + above) ** 2 + (x - right) ** 2) + 0.5 * coarse
        _paint(canvas, disc, value + 0.04 * fine)
    liver = y + rng.uniform(-0.3, 0.3) * x + 3 * coarse - rng.uniform(0.22, 0.32) * field
    _paint(canvas, liver, 0.6)
    _paint(canvas, liver - 2.5, 0.28 + 0.04 * fine + 0.2 * np.clip(fine - 1.6, 0, 1))
    lean = rng.uniform(0.1, 0.75)
    wall = 3 * coarse - math.cos(lean) * x - math.sin(lean) * y - rng.uniform(0.29, 0.36) * field
    for start, value in (0, 0.18), (2.5, 0.85), (rng.uniform(6, 12), 0.22), (18, 0.8):
        _paint(canvas, wall - start, value + 0.04 * fine)
    return canvas


def _draw_rest(rng: Generator, anatomy: Anatomy, size: Size) -> Drawing:
    """Tissue at rest on a FINE grid: what slices show at ED and, the base descended, at ES."""
    shape = (size[0], size[1] * FINE, size[2] * FINE)
    coarse, medium, fine = (_smooth_noise(rng, shape, (5, n, n)) for n in (9, 26, 56))
    y, x = (np.arange(n, dtype=np.float32) * (anatomy.spacing[1] / FINE) for n in shape[1:])
    y, x = y[None, :, None], x[None, None, :]
    chest = _draw_chest(rng, y - y.max() / 2, x - x.max() / 2, coarse, fine)
    y, x = y - anatomy.centre[0][:, None, None], x - anatomy.centre[1][:, None, None]
    r, index = _polar(y, x)
    facing = (y * math.sin(anatomy.septum) + x * math.cos(anatomy.septum)) / np.maximum(r, 1)
    fat = np.maximum(rng.uniform(1, 3) + 3 * coarse + 3 * facing, 0)
    blood = 0.7 + 0.04 * coarse + 0.03 * medium
    rough = 0.6 * medium + 0.6 * fine
    belly = (anatomy.depth > 0.25) & (anatomy.depth < 0.9)  # slices that cut the papillary muscles
    spots = [anatomy.septum + rng.uniform(at, at + 0.5) for at in (1.9, 3.9)]
    canvases = np.stack([chest, chest])
    for canvas, contours in zip(canvases, anatomy.rest, strict=True):
        endo, epi, free = (contour.ravel()[index] for contour in contours)
        width = free - epi
        outside = free + np.minimum(width / 2, 2.5) - r
        outside[np.broadcast_to(epi < 1, r.shape)] = -99  # below the apex
        _paint(canvas, outside + fat, 0.8 + 0.04 * medium)
        _paint(canvas, outside + 1, 0.16)
        _paint(canvas, np.minimum(free - r, width - 2), blood)
        _paint(canvas, np.minimum(free - r, 5 * (rough - 0.8) - 0.3 * (free - r)), 0.28)
        _paint(canvas, epi - r, 0.2 + 0.02 * medium + 0.01 * fine)
        _paint(canvas, np.minimum(endo - r, endo - 2), blood)
        _paint(canvas, np.minimum(endo - r, 4 * (rough - 0.05) - 0.9 * (endo - r)), 0.3)
        for spot in spots:
            dy, dx = y - 0.68 * math.sin(spot) * endo, x - 0.68 * math.cos(spot) * endo
            muscle = (0.17 + 0.05 * rough) * endo - np.sqrt(dy * dy + dx * dx)
            _paint(canvas, np.where(belly[:, None, None], muscle, -99), 0.25)
    return canvases


def _look(anatomy: Anatomy, drawing: Drawing, phase: float) -> tuple[Stack, Labels]:
    """A frame without noise, and its labels; phase is 0 at ED and 1 at ES."""
    step = anatomy.spacing[1]
    centre = anatomy.centre[..., None, None]
    y, x = np.indices([n // FINE for n in drawing.shape[2:]], np.float32)[:, None] * step - centre
    fade = phase * np.clip(1 - (y * y + x * x) / anatomy.reach**2, 0, 1) ** 2
    drift_y, drift_x, twist = (fade * share for share in anatomy.sway)
    y, x = y - drift_y, x - drift_x
    y, x = y + twist * x, x - twist * y
    r, index = _polar(y, x)
    rest = anatomy.rest[0] + phase * (anatomy.rest[1] - anatomy.rest[0])
    now = _contract(rest, phase * anatomy.shortening, 1 - phase * anatomy.rv_closing)
    region = np.sum([r >= contour.ravel()[index] for contour in now], axis=0, dtype=np.int32)
    # The radius at rest is linear between the contours: slope * r + start in each region.
    zero = np.zeros_like(rest[:1])
    rest, now = (np.concatenate([zero, knot, zero + anatomy.reach]) for knot in (rest, now))
    slope = np.diff(rest, axis=0) / np.maximum(np.diff(now, axis=0), 1e-3)
    start = rest[:-1] - slope * now[:-1]
    index += region * zero.size
    scale = slope.ravel()[index] + start.ravel()[index] / np.maximum(r, 1e-3)
    scale[r >= anatomy.reach] = 1
    material = (np.stack([y, x]) * scale + centre) * (FINE / step)
    tissue = drawing[0] + phase * (drawing[1] - drawing[0])
    frame = np.empty_like(r)
    for plane, source, at in zip(frame, tissue, material.swapaxes(0, 1), strict=True):
        ndimage.map_coordinates(source, at, plane, order=1, mode="nearest")
    return frame, np.asarray(3 - region, np.uint8)


def _acquire(rng: Generator, signal: Cine) -> Int16[np.ndarray, "t d h w"]:
    """Surface coil shading, the scanner's gain, and Rician noise of 1 to 1.4 % of the range."""
    signal = signal * np.exp(0.16 * _smooth_noise(rng, signal.shape[1:], (2, 3, 3)))
    top = rng.uniform(255, 1500)
    signal *= top / signal.max()
    noise = rng.standard_normal((2, *signal.shape), np.float32) * (rng.uniform(0.010, 0.014) * top)
    return np.rint(np.sqrt((signal + noise[0]) ** 2 + noise[1] ** 2)).astype(np.int16)


def _write_patient(folder: Path, number: int, size: Size, seed: int) -> None:
    rng = np.random.default_rng((seed, number))
    name = list(GROUPS)[(number - 1) % len(GROUPS)]
    frames, systole = int(rng.integers(20, 24)), int(rng.integers(8, 11))
    ed = int(rng.integers(1, 4)) if rng.random() < 0.2 else 0
    es = ed + systole
    phases = np.roll(_volume_curve(frames, systole), ed)
    anatomy = _draw_anatomy(rng, GROUPS[name], size)
    drawing = _draw_rest(rng, anatomy, size)
    beat = [_look(anatomy, drawing, float(phase)) for phase in phases]
    images, labels = _acquire(rng, np.stack([b[0] for b in beat])), np.stack([b[1] for b in beat])
    height, weight = f"{rng.integers(155, 190)}.0", f"{rng.integers(50, 105)}.0"
    info = {"Group": name, "Height": height, "Weight": weight}
    write_patient(folder, images, labels, anatomy.spacing, (ed, es), **info)


def write_phantom(
    root: Path, patients: tuple[int, int] = (40, 10), size: Size = (10, 96, 96), seed: int = 0
) -> Path:
    """Write (training, testing) patients of (d, h, w) voxels under `root`, and return `root`.

    The groups take turns. A second call with the same settings returns at once; a phantom of
    other settings, or one that lacks a patient, is written anew beside `root` and moved into place.
    Raises ValueError if patients or size are too small, FileExistsError if `root` has other files.
    """
    if min(patients) < 0 or sum(patients) < 1 or size[0] < 4 or min(size[1:]) < 32:
        raise ValueError(
            f"phantom: {patients=}, {size=}; needs a patient, 4 slices, 32 x 32 voxels"
        )
    settings = {"version": 1, "patients": [*patients], "size": [*size], "seed": seed}
    marker, parts = root / MARKER, ["training"] * patients[0] + ["testing"] * patients[1]
    names = [f"{part}/patient{number:03d}" for number, part in enumerate(parts, 1)]

    def complete() -> bool:
        found = marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == settings
        return found and all((root / name / "Info.cfg").is_file() for name in names)

    if complete():
        return root
    if root.exists() and not marker.is_file() and any(root.iterdir()):
        raise FileExistsError(f"{root}: has files but no {MARKER}; needs an empty or new folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{root.name}.partial-", dir=root.parent) as scratch:
        for number, name in enumerate(names, 1):
            _write_patient(Path(scratch, "phantom", name), number, size, seed)
        Path(scratch, "phantom", MARKER).write_text(json.dumps(settings), encoding="utf-8")
        if not complete():  # another process may have been faster
            shutil.rmtree(root, ignore_errors=True)
            Path(scratch, "phantom").rename(root)
    return root
