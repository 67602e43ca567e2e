"""What the PyTorch reference computes, kept in tests/golden/*.npz for machines without PyTorch.

`PYTHONPATH=. python tests/golden.py` writes the files anew. Each has, by PyTorch's names, the
weights ("w ..."), the gradients of the training loss ("g ..."), and what stands in `Golden`.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trajectory

from mstg_jax.config import PRESETS, Config

FOLDER = Path(__file__).with_name("golden")
SMALL = {"channels": (4, 4), "deformation_channels": (4, 4), "d_state": 2}
PRESET = {"ddm": "ddm-tiny", "mstg": "acdc-small-tiny"}
SMOOTH_WEIGHT = {"ddm": 20.0, "mstg": 5.0}
SIZE = (4, 8, 8)
FRAMES = 4
STEPS, RATE = 10, 1e-3  # of Adam


class Golden(NamedTuple):
    """ed, es (b d h w 1) in [0, 1]; all float32."""

    ed: np.ndarray
    es: np.ndarray
    code: np.ndarray  # at t = 0 with x_t := ES
    frames: np.ndarray  # (b t d h w 1) at gamma = linspace(0, 1, t)
    flow: np.ndarray  # (b t d h w 3)
    parts: np.ndarray  # noise, ncc, smooth of the first loss
    losses: np.ndarray  # at each step of Adam, from the weights that are kept


class File(NamedTuple):
    weights: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    values: Golden


def config_of(name: str) -> Config:
    config = PRESETS[PRESET[name]][1]
    config = replace(config, model=replace(config.model, **SMALL))
    diffusion = replace(config.diffusion, smooth_weight=SMOOTH_WEIGHT[name])
    return replace(config, data=replace(config.data, size=SIZE), diffusion=diffusion)


def load(name: str) -> File:
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    weights, gradients = (
        {k.removeprefix(sign): x for k, x in arrays.items() if k.startswith(sign)}
        for sign in ("w ", "g ")
    )
    return File(weights, gradients, Golden(*(arrays[k] for k in Golden._fields)))


def compute(name: str) -> dict[str, np.ndarray]:
    """By the reference, in float32."""
    import torch
    from parity import first, images, make_pair
    from torch_reference import diffusion as reference

    config = config_of(name)
    pair = make_pair(PRESET[name], "float32", **SMALL)
    model = pair.reference
    ed, es = images(config, 2, "float32", batch=1)
    scaled = [2 * first(x) - 1 for x in (ed, es)]
    weights = {f"w {k}": x.detach().numpy().copy() for k, x in model.named_parameters()}
    found = reference.generate(model, *scaled, torch.linspace(0, 1, FRAMES)[None])
    path = trajectory.in_torch(model, config, ed, es, steps=STEPS, rate=RATE)
    gradients = {f"g {name}": x for name, x in path.gradients.items()}
    values = Golden(
        ed, es, np.moveaxis(found.code.numpy(), 1, -1),
        *(np.moveaxis(x.numpy(), 2, -1) for x in (found.frames, found.flow)),
        np.array(path.parts, np.float32), np.array(path.losses, np.float32),
    )  # fmt: skip
    return weights | gradients | values._asdict()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in PRESET:
        np.savez_compressed(FOLDER / f"{name}.npz", **compute(name))
        print(FOLDER / f"{name}.npz", (FOLDER / f"{name}.npz").stat().st_size)
