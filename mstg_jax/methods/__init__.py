"""The ways to generate frames, by name."""

from dataclasses import replace

from mstg_jax.config import Config, SettingsError
from mstg_jax.methods.base import FrameSequence, Method, generate_sequence, new_model
from mstg_jax.methods.between import Between
from mstg_jax.methods.blocks import fitting
from mstg_jax.methods.cgan import CGAN
from mstg_jax.methods.direct import Direct
from mstg_jax.methods.interpolation import TRIVIAL, Blend, Copy
from mstg_jax.methods.mstg import Deform, ddm
from mstg_jax.methods.r2net import LipschitzRegistration
from mstg_jax.methods.register import Register
from mstg_jax.methods.ukan import ukan
from mstg_jax.methods.voxelmorph import VoxelMorph

__all__ = ["TRIVIAL", "FrameSequence", "Method", "generate_sequence", "make_method", "new_model"]


def make_method(config: Config, *, quick: bool = False) -> Method:
    """The method that `config.method` names; quick: as training validates, in fewer steps if it
    takes many.

    Raises SettingsError if its networks cannot halve the grid as often as they do.
    """
    method = _named(config, quick)
    multiples = tuple(2**n for n in method.halvings)
    size, _ = config.data.grid
    if config.method == "direct":
        size = fitting(config.direct.block, size)
    if any(n % m for n, m in zip(size, multiples, strict=True)):
        named = "data.slices and data.size" if config.data.depth == "native" else "data.size"
        named += " and direct.block" * (config.method == "direct" and config.direct.in_blocks)
        raise SettingsError(
            f"{named} make a grid of {size}, but the networks of {config.method} halve d, h, w "
            f"{method.halvings} times: they must be multiples of {multiples}"
        )
    return method


def _named(config: Config, quick: bool) -> Method:
    match config.method:
        case "mstg":
            return Deform(config.model, config.diffusion)
        case "between":
            _, spacing = config.data.grid
            sections = config.model, config.diffusion, config.motion, config.register
            return Between(*sections, spacing)
        case "ddm":
            return ddm(config.model, config.diffusion)
        case "direct":
            diffusion = config.diffusion
            if quick and diffusion.variance == "optimal":  # known of trained weights alone
                diffusion = replace(diffusion, variance="posterior")
            return Direct(config.model, diffusion, config.direct)
        case "voxelmorph":
            return VoxelMorph(config.model.deformation_channels, config.diffusion)
        case "r2net":
            return LipschitzRegistration(config.r2net)
        case "ukan":
            return ukan(config.ukan, config.diffusion, quick=quick)
        case "cgan":
            return CGAN(config.cgan)
        case "register":
            return Register(config.register)
        case "copy":
            return Copy()
        case "blend":
            return Blend()
