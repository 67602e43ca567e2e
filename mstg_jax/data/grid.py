"""Where a file's voxels lie, and how another file's voxels come to lie on them.

ACDC's headers hold real voxel sizes beside affines that are unit matrices: sizes come from pixdim,
and two files are on one grid where their affines say so, or else their directions and sizes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Shaped
from nibabel.affines import voxel_sizes
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation

from mstg_jax.data.nifti import DataError, Volume

DIRECTIONS = (("left", "right"), ("back", "front"), ("feet", "head"))
IDENTITY = np.array([[0, 1], [1, 1], [2, 1]])
UNITS = {1: ("m", 1e3), 2: ("mm", 1.0), 3: ("micron", 1e-3)}
THICK = 2.0
"""How many times thicker than along z voxels are at least where slices lie along x or y."""
TOLERANCE = 0.5
"""Share of the smallest voxel size by which corners of one grid may differ: headers are rounded."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A file's grid; x, y, z are the file's own axes and everything is in mm.

    placed: the affine with columns as long as the voxel sizes; unlike `affine` it means something
        where a tool has turned ACDC's unit matrices into real ones.
    coded: whether the header has an affine of its own, not one made from the voxel sizes.
    notes: what is odd about the sizes, and what was assumed.
    """

    name: str
    shape: tuple[int, ...]
    sizes: Float[np.ndarray, "3"]
    affine: Float[np.ndarray, "4 4"]
    coded: bool
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, volume: Volume) -> "Grid":
        header = volume.header
        unit, scale = UNITS.get(int(header["xyzt_units"]) % 8, ("mm", 1.0))
        affine = np.diag([scale, scale, scale, 1]) @ header.get_best_affine()
        coded = any(int(header[f"{form}_code"]) > 0 for form in ("sform", "qform"))
        sizes, notes = _sizes(scale * np.asarray(header["pixdim"][1:4], float), affine)
        if unit != "mm":
            notes.append(f"voxel sizes in {unit}, which make {_mm(sizes)}")
        notes = tuple(f"{volume.name}: {note}" for note in notes)
        return cls(volume.name, volume.voxels.shape[:-4:-1], sizes, affine, coded, notes)

    @property
    def sized(self) -> bool:
        """Whether the sizes say something: 1 x 1 x 1 is what a header has that nobody filled in."""
        known = np.isfinite(self.sizes) & (self.sizes > 0)
        return bool(known.all() and not (self.sizes == 1).all())

    @property
    def unit(self) -> bool:
        """Whether the affine is a unit matrix but for signs, and without an origin."""
        return np.array_equal(np.abs(self.affine), np.eye(4))

    @property
    def says_where(self) -> bool:
        filled = self.sized or not self.unit
        return bool(self.coded and filled and np.linalg.matrix_rank(self.affine) == 4)

    @cached_property
    def placed(self) -> Float[np.ndarray, "4 4"]:
        lengths = voxel_sizes(self.affine)
        if not (self.sized and lengths.all()):
            return self.affine
        return self.affine @ np.diag([*(self.sizes / lengths), 1.0])

    @property
    def axes(self) -> str:
        """Such as `x to left, y to back, z to head`."""
        ends = zip("xyz", aff2axcodes(self.affine, DIRECTIONS), strict=True)
        return ", ".join(f"{axis} to {end}" for axis, end in ends)

    def __str__(self) -> str:
        """Sizes, directions, the place of the first voxel, and the affine itself."""
        first = ", ".join(f"{x:.4g}" for x in self.affine[:3, 3])
        rows = " ".join(f"[{' '.join(f'{x:.4g}' for x in row)}]" for row in self.affine[:3])
        return f"voxels of {_mm(self.sizes)}, {self.axes}, the first at ({first}) mm, affine {rows}"


def _sizes(
    pixdim: Float[np.ndarray, "3"], affine: Float[np.ndarray, "4 4"]
) -> tuple[Float[np.ndarray, "3"], list[str]]:
    """The voxel sizes to use, and notes.

    They are pixdim's, also where they contradict the affine; but pixdim of 1 x 1 x 1 is what a
    header has that nobody filled in, as a unit affine is.
    """
    if not (np.isfinite(pixdim) & (pixdim > 0)).all():
        return pixdim, []  # a problem, which the reader names
    notes, sizes, columns = [], pixdim, voxel_sizes(affine)
    if not np.allclose(columns, pixdim, rtol=0.01) and not np.allclose(columns, 1, rtol=0.01):
        if (pixdim == 1).all() and columns.all():
            sizes = columns
        notes.append(
            f"voxel sizes of {_mm(pixdim)} beside an affine of {_mm(columns)}; taken: {_mm(sizes)}"
        )
    if (sizes == 1).all():
        notes.append("voxel sizes of 1 x 1 x 1 mm, as if nobody had filled them in")
    if not ((sizes > 0.1) & (sizes < 50)).all():
        notes.append(f"voxel sizes of {_mm(sizes)}, which cannot be those of a heart in mm")
    if max(sizes[:2]) > THICK * sizes[2]:
        notes.append(
            f"voxel sizes of {_mm(sizes)} (x, y, z): slices seem to lie along "
            f"{'xy'[int(np.argmax(sizes[:2]))]}, but are taken to lie along z"
        )
    return sizes, notes


def _mm(sizes: Float[np.ndarray, "3"]) -> str:
    return f"{' x '.join(f'{x:.4g}' for x in sizes)} mm"


@np.errstate(all="ignore")  # damaged headers may hold any number
def aligned(image: Grid, volume: Volume) -> tuple[Shaped[np.ndarray, "*t d h w"], tuple[str, ...]]:
    """The volume's voxels on the image's grid, and notes on what was done or assumed.

    A grid that is stored flipped or with permuted axes is brought to the image's orientation.
    Raises DataError where the files show different places, or are of different shapes.
    """
    other = Grid.of(volume)
    for a, b in ((image.affine, other.affine), (image.placed, other.placed)):
        orientation = _orientation(image, other, a, b)
        if orientation is not None:
            break
    else:
        if image.shape != other.shape:
            raise DataError(
                f"{other.name} has shape {other.shape} but the image in {image.name} has "
                f"{image.shape}; they must be equal"
            )
        unknown = not (image.says_where and other.says_where) or (image.unit and other.unit)
        if not (unknown and _agree(image, other, other.sizes)):
            raise DataError(
                f"{other.name} does not lie on {image.name}: it has {other}; {image.name} has "
                f"{image}; up to {_distance(image.placed, other.placed, image.shape):.3g} mm apart"
            )
        blank = image if other.says_where else other
        note = f"{other.name} is taken to lie on {image.name} voxel by voxel: the affine of "
        return volume.voxels, (f"{note}{blank.name} does not say where",)
    if np.array_equal(orientation, IDENTITY):
        return volume.voxels, ()
    turned = apply_orientation(volume.voxels.T, orientation).T
    note = f"{other.name} is stored with {other.axes}; it is brought to the image's {image.axes}"
    return np.ascontiguousarray(turned), (note,)


def _orientation(
    image: Grid,
    other: Grid,
    image_affine: Float[np.ndarray, "4 4"],
    other_affine: Float[np.ndarray, "4 4"],
) -> Float[np.ndarray, "3 2"] | None:
    """nibabel's orientation that lays the other's voxels on the image's; None if there is none."""
    try:
        orientation = io_orientation(np.linalg.solve(image_affine, other_affine))
    except np.linalg.LinAlgError:  # a singular affine places nothing
        return None
    if np.isnan(orientation).any():
        return None
    order = np.argsort(orientation[:, 0])
    moved = other_affine @ inv_ornt_aff(orientation, other.shape)
    smallest = float(min(voxel_sizes(image_affine)))
    fits = (
        tuple(np.array(other.shape)[order]) == image.shape
        and _distance(image_affine, moved, image.shape) <= TOLERANCE * smallest
        and _agree(image, other, other.sizes[order])
    )
    return orientation if fits else None


def _agree(image: Grid, other: Grid, sizes: Float[np.ndarray, "3"]) -> bool:
    """Whether the other's sizes, in the order of the image's axes, are the image's."""
    if not (image.sized and other.sized):
        return True
    apart = np.abs(sizes - image.sizes) * image.shape
    return bool(apart.max() <= TOLERANCE * image.sizes.min())


def _distance(
    a: Float[np.ndarray, "4 4"], b: Float[np.ndarray, "4 4"], shape: tuple[int, ...]
) -> float:
    """The largest distance between the corners of a box of voxels under two affines."""
    corners = np.stack([*np.indices((2, 2, 2)).reshape(3, 8), np.ones(8)])
    corners[:3] = corners[:3] * np.array(shape)[:, None] - 0.5
    return float(np.linalg.norm(((a - b) @ corners)[:3], axis=0).max())
