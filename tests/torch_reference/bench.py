"""What `python -m mstg_jax.bench --vs torch` measures of the reference."""

from collections.abc import Callable

import torch

from mstg_jax.bench.request import FRAMES
from mstg_jax.config import PRESETS
from torch_reference.ddm import DeformableDiffusion
from torch_reference.diffusion import generate, losses


def prepare(quantity: str, size: tuple[int, int, int], precision: str) -> Callable[[], object]:
    """DDM on one volume of noise, on the GPU if there is one; a call does it once and waits."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        call = _prepared(quantity, size)

    def run() -> None:
        with torch.device(device), torch.autocast(device, torch.bfloat16, precision == "bf16"):
            call()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def _prepared(quantity: str, size: tuple[int, int, int]) -> Callable[[], object]:
    torch.manual_seed(0)
    model = DeformableDiffusion()
    ed, es = (2 * torch.rand(1, 1, *size) - 1 for _ in range(2))
    if quantity == "training step":
        config = PRESETS["ddm"][1].optim
        adam = torch.optim.Adam(model.parameters(), lr=config.learning_rate, betas=config.betas)

        def step() -> float:
            t = torch.randint(len(model.betas), (1,))
            adam.zero_grad()
            total = losses(model, ed, es, t, torch.randn_like(es)).total
            total.backward()
            adam.step()
            return total.item()

        return step
    gammas = torch.linspace(0, 1, FRAMES)[None]
    calls: dict[str, Callable[[], object]] = {
        "denoiser forward": lambda: model.code(ed, es, es, torch.zeros(1, dtype=torch.long)),
        "deformation forward": lambda: model.field_fn(torch.cat([ed, es], dim=1)),
        "sequence of 10 frames": lambda: generate(model, ed, es, gammas),
    }
    return torch.no_grad()(calls[quantity])
