"""The ways to generate frames, by name."""

from mstg_jax.config import Config
from mstg_jax.methods.base import Method, Sequence, generate_sequence, new_model
from mstg_jax.methods.direct import Direct
from mstg_jax.methods.interpolation import TRIVIAL, Interpolation
from mstg_jax.methods.mstg import Deform, ddm

__all__ = ["TRIVIAL", "Method", "Sequence", "generate_sequence", "make_method", "new_model"]


def make_method(config: Config) -> Method:
    """The method that `config.method` names."""
    match config.method:
        case "mstg":
            return Deform(config.model, config.diffusion)
        case "ddm":
            return ddm(config.model, config.diffusion)
        case "direct":
            return Direct(config.model, config.diffusion)
        case "copy" | "blend":
            return Interpolation(config.method)
