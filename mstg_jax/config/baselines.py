"""Settings of the baselines that the paper compares with, one section of `Config` each."""

from dataclasses import dataclass
from typing import Literal

from mstg_jax.config.checks import SettingsError, positive


@dataclass(frozen=True)
class RegisterConfig:
    """Registration without a network: method register, and `sample.py --refine`."""

    steps: int = 240
    """Of Adam, for each frame."""
    learning_rate: float = 0.1
    """In voxels."""
    smooth_weight: float = 0.2
    """Weight of the displacement's mean squared gradient; the local correlation has weight 1."""
    window: int = 9
    """Of the local correlation, in voxels along each axis; an odd number."""

    def check(self) -> None:
        positive("register", self, "steps", "learning_rate", "window")
        if self.window % 2 == 0:
            raise SettingsError(f"register.window is {self.window}, but it must be odd")


@dataclass(frozen=True)
class R2NetConfig:
    blocks: int = 7
    """Lipschitz residual blocks after the first velocity."""
    power_iterations: int = 10
    """Of the spectral norm, from a fixed start."""
    folding_weight: float = 1e-3
    """Weight of the summed folding; mean squared error has weight 1."""
    double_identity: bool = False
    """The published Jacobian: of a map that holds the identity already, plus the identity."""
    frames: Literal["scale", "blocks"] = "scale"
    """Frames between ED and ES: the flow times gamma, or the flow where that share of the blocks
    is passed."""

    def check(self) -> None:
        positive("r2net", self, "blocks", "power_iterations")


@dataclass(frozen=True)
class UKANConfig:
    channels: tuple[int, ...] = (8, 16, 32)
    """Channels of the convolutional stages, from full resolution down."""
    tokens: tuple[int, int] = (32, 48)
    """Channels of the two stages of KAN tokens, each at half the size before."""
    depth: int = 1
    """Residual blocks per encoder stage; the decoder has one more per stage."""
    groups: int = 4
    time_dim: int = 32
    grid: int = 5
    """Intervals of the splines in [-1, 1]."""
    order: int = 3
    """Degree of the splines."""
    steps: int = 1000
    """Diffusion steps, with betas linear from beta_start to beta_end."""
    beta_start: float = 1e-4
    beta_end: float = 0.02
    validation_steps: int = 10
    """Reverse steps per frame when training validates; sample.py takes diffusion.sampler_steps."""

    def check(self) -> None:
        positive("ukan", self, "channels", "tokens", "depth", "groups", "time_dim", "grid")
        positive("ukan", self, "order", "steps", "validation_steps")


@dataclass(frozen=True)
class CGANConfig:
    channels: tuple[int, ...] = (8, 16, 32)
    """Channels of the generator's stages, from full resolution down."""
    blocks: int = 4
    """Residual blocks in the generator's middle."""
    discriminator: tuple[int, ...] = (16, 32, 64)
    """Channels of the discriminator; each layer halves the size."""
    l1_weight: float = 100.0

    def check(self) -> None:
        positive("cgan", self, "channels", "discriminator")
