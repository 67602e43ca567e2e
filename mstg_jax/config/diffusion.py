"""Settings of the diffusion: its schedule, what is predicted, and how frames are sampled."""

from dataclasses import dataclass
from typing import Literal

from mstg_jax.config.checks import SettingsError, positive

Sampler = Literal["ddpm", "ddim", "dpm++", "heun"]


@dataclass(frozen=True)
class DiffusionConfig:
    schedule: Literal["linear", "cosine", "quad", "warmup10", "warmup50", "const", "jsd"] = "linear"
    beta_start: float = 1e-6
    beta_end: float = 1e-2
    steps: int = 2000
    ncc_weight: float = 20.0
    smooth_weight: float = 20.0
    prediction: Literal["eps", "x0", "v"] = "eps"
    """What the denoiser predicts (methods `direct` and `ukan`)."""
    frames: int = 4
    """Frames that are denoised together, training and sampling (method `direct`)."""
    sampler: Sampler = "ddim"
    """ddpm: ancestral; ddim; dpm++: DPM-Solver++ 2M; heun, which calls the denoiser twice a step
    (methods `direct` and `ukan`)."""
    sampler_steps: int = 50
    """Reverse steps of the sampler; ddpm wants all of `steps`."""
    eta: float = 0.0
    """Noise of ddim's steps, from 0, none, to 1, as much as ddpm's."""

    def check(self) -> None:
        positive("diffusion", self, "steps", "frames", "sampler_steps")
        if not 0 <= self.eta <= 1:
            raise SettingsError(f"diffusion.eta is {self.eta}, but it must be from 0 to 1")
        if self.eta and self.sampler != "ddim":
            raise SettingsError(
                f"diffusion.eta is {self.eta}, but it is ddim's, and diffusion.sampler is "
                f"{self.sampler}"
            )
