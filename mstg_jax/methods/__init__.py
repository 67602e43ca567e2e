"""The ways to generate frames, by name."""

from mstg_jax.config import Config
from mstg_jax.methods.base import Method, Sequence, generate_sequence, new_model
from mstg_jax.methods.between import Between
from mstg_jax.methods.cgan import CGAN
from mstg_jax.methods.direct import Direct
from mstg_jax.methods.interpolation import TRIVIAL, Interpolation
from mstg_jax.methods.mstg import Deform, ddm
from mstg_jax.methods.r2net import LipschitzRegistration
from mstg_jax.methods.ukan import ukan
from mstg_jax.methods.voxelmorph import VoxelMorph

__all__ = ["TRIVIAL", "Method", "Sequence", "generate_sequence", "make_method", "new_model"]


def make_method(config: Config) -> Method:
    """The method that `config.method` names."""
    match config.method:
        case "mstg":
            return Deform(config.model, config.diffusion)
        case "between":
            return Between(config.model, config.diffusion, config.motion)
        case "ddm":
            return ddm(config.model, config.diffusion)
        case "direct":
            return Direct(config.model, config.diffusion)
        case "voxelmorph":
            return VoxelMorph(config.model.deformation_channels, config.diffusion)
        case "r2net":
            return LipschitzRegistration(config.r2net)
        case "ukan":
            return ukan(config.ukan, config.diffusion)
        case "cgan":
            return CGAN(config.cgan)
        case "copy" | "blend":
            return Interpolation(config.method)
