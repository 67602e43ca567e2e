"""What can be measured, and what a worker is asked to measure."""

from typing import Literal, NamedTuple, get_args

from mstg_jax.config import Precision

Quantity = Literal[
    "training step", "denoiser forward", "deformation forward", "sequence of 10 frames"
]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
FRAMES = 10  # of the sequence


class Request(NamedTuple):
    """One quantity of a preset, or of DDM in PyTorch, on a volume of (d, h, w) voxels."""

    side: Literal["jax", "torch"]
    preset: str
    quantity: Quantity
    size: tuple[int, int, int]
    precision: Precision = "float32"
