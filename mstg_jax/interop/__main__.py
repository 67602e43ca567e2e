"""`python -m mstg_jax.interop from-torch FILE --out RUN`, and `to-torch RUN --out FILE`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from mstg_jax import files, runs
from mstg_jax.command import command, leave
from mstg_jax.config import PRESETS, Config, SettingsError


@dataclass(frozen=True)
class FromTorch:
    """Make a run of a PyTorch checkpoint: `sample.py --run RUN` then works with it."""

    checkpoint: tyro.conf.Positional[Path]
    """A state_dict: DDM's *_gen_G.pth, or what to-torch wrote; .pth, .pt or .safetensors."""
    out: Path
    """Folder of the new run."""
    preset: str = "ddm"
    """Settings of the model that the weights belong to."""
    like: Path | None = None
    """A run whose settings to take instead."""


@dataclass(frozen=True)
class ToTorch:
    """Write a run's averaged weights as a state_dict."""

    run: tyro.conf.Positional[Path]
    """Folder of the run; its newest checkpoint."""
    out: Path
    """A file to write: .pth, .pt or .safetensors. DDM's public code loads that of a `ddm` run."""


Command = (
    Annotated[FromTorch, tyro.conf.subcommand("from-torch")]
    | Annotated[ToTorch, tyro.conf.subcommand("to-torch")]
)


@command("interop")
def main(argv: Sequence[str]) -> int:
    chosen = tyro.cli(Command, args=argv, prog="python -m mstg_jax.interop")  # pyright: ignore[reportCallIssue, reportArgumentType]
    from mstg_jax.interop.convert import Misfit

    try:
        if isinstance(chosen, FromTorch):
            from_torch(chosen)
        else:
            to_torch(chosen)
    except Misfit as error:
        source = chosen.checkpoint if isinstance(chosen, FromTorch) else chosen.run
        raise SettingsError(f"{source} does not fit the model: {error}") from error
    return 0


def from_torch(command: FromTorch) -> None:
    from mstg_jax import interop
    from mstg_jax.methods import make_method
    from mstg_jax.training.checkpoint import Checkpoints
    from mstg_jax.training.state import as_vector, init_state, make_optimiser

    config = replace(settings(command), run=str(command.out), resume=False)
    runs.check_free(config, "--out")
    tensors = interop.read_tensors(command.checkpoint)
    optimiser = make_optimiser(config.optim, config.train.steps)
    structure, state = init_state(make_method(config), optimiser, config.train.seed)
    params = interop.from_torch(tensors, structure.params(state.params), config)
    weights = as_vector(params)
    run = runs.create(config, "--out")
    with Checkpoints(run, structure) as checkpoints:
        checkpoints.save(state._replace(params=weights, ema=weights), config)
    print(f"{command.checkpoint}: {weights.size:,} parameters -> {run}")


def to_torch(command: ToTorch) -> None:
    from mstg_jax import interop
    from mstg_jax.methods import make_method
    from mstg_jax.training.checkpoint import load_model

    run = runs.find(str(command.run))
    config = runs.read_config(run)
    (_, params), step = load_model(run, config, make_method(config))
    tensors = interop.to_torch(params, config)
    with files.writing("--out", command.out):
        interop.write_tensors(command.out, tensors)
    print(f"{run}, step {step}: {len(tensors)} tensors -> {command.out}")


def settings(command: FromTorch) -> Config:
    if command.like is not None:
        return runs.read_config(runs.find(str(command.like)))
    if command.preset not in PRESETS:
        raise SettingsError(f"no preset {command.preset!r}; there are {', '.join(PRESETS)}")
    return PRESETS[command.preset][1]


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
