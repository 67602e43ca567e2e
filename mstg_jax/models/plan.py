"""Where networks halve which axes, by the distances of voxels."""

from typing import NamedTuple

from mstg_jax.models.rescale import Factor

ALIKE = 2.0
"""How many times farther apart than in plane slices may be to be treated like an axis in plane."""


class Plan(NamedTuple):
    """Of a network's stages, from the finest: by what each is smaller than the one before it (the
    first: than the images), and whether its convolutions see one slice at a time."""

    factors: tuple[Factor, ...]
    flat: tuple[bool, ...]

    def first(self, stages: int) -> "Plan":
        return Plan(self.factors[:stages], self.flat[:stages])

    @property
    def halvings(self) -> tuple[int, int, int]:
        d, h, w = (sum(f[axis] == 2 for f in self.factors) for axis in range(3))
        return d, h, w


def alike(stages: int) -> Plan:
    """Every axis the same, the first stage at full resolution, as in DDM."""
    return Plan(((1, 1, 1), *[(2, 2, 2)] * (stages - 1)), (False,) * stages)


def by_spacing(spacing: tuple[float, float, float], stages: int) -> Plan:
    """In plane first, and along depth only where slices are at most ALIKE times as far apart as
    voxels in plane (nnU-Net; Isensee et al. 2021, Nat Methods). Half of the size is the first."""
    depth, plane = spacing[0], min(spacing[1:])
    factors, flat = [], []
    for _ in range(stages):
        both = depth <= ALIKE * plane
        factors.append((2 if both else 1, 2, 2))
        depth, plane = depth * (2 if both else 1), plane * 2
        flat.append(depth > ALIKE * plane)
    return Plan(tuple(factors), tuple(flat))
