"""Settings of the diffusion: its schedule, what is predicted, and how frames are sampled."""

from dataclasses import dataclass
from typing import Literal

from mstg_jax.config.checks import SettingsError, positive

Sampler = Literal["ddpm", "ddim", "dpm++", "heun"]
Prediction = Literal["eps", "x0", "v", "velocity", "edm"]
ScheduleName = Literal[
    "linear", "cosine", "quad", "warmup10", "warmup50", "const", "jsd", "flow", "edm", "learned"
]


@dataclass(frozen=True)
class DiffusionConfig:
    schedule: ScheduleName = "linear"
    """flow: straight lines from data to noise; edm: of Karras et al.; learned: of VDM (these three
    for method `direct`); the others are betas."""
    beta_start: float = 1e-6
    beta_end: float = 1e-2
    steps: int = 2000
    ncc_weight: float = 20.0
    smooth_weight: float = 20.0
    prediction: Prediction = "eps"
    """What the denoiser predicts (methods `direct` and `ukan`): velocity goes with schedule flow,
    edm with schedule edm."""
    draw: Literal["uniform", "importance", "sampler"] = "uniform"
    """Steps that training draws: any, those of large losses more often (Improved DDPM; method
    direct), or the sampler's alone (Fast-DDPM)."""
    spacing: Literal["uniform", "nonuniform"] = "uniform"
    """Steps of the sampler; nonuniform: 6 of 10 in the last 30 % (Fast-DDPM)."""
    variance: Literal["posterior", "learned", "optimal"] = "posterior"
    """Of the noise of ddpm's steps, and of ddim's: learned along with the prediction (Improved
    DDPM), or the optimal one of the trained denoiser (Analytic-DPM)."""
    log_snr: tuple[float, float] = (13.3, -5.0)
    """With schedule learned, log(signal^2 / sigma^2) at data and at noise, before training."""
    fourier: tuple[int, ...] = ()
    """Beside x_t the denoiser sees sin and cos of 2^n pi x_t for these n; VDM has 7 and 8."""
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
        if self.sampler in ("dpm++", "heun") and self.variance == "optimal":
            raise SettingsError(
                f"diffusion.variance is {self.variance}, but {self.sampler} draws no noise; take "
                "sampler ddpm or ddim"
            )
        if self.prediction == "eps" and self.schedule in ("jsd", "flow"):
            raise SettingsError(
                f"diffusion.schedule {self.schedule} ends without any signal, where eps does not "
                "determine x_0; take prediction x0, v or velocity"
            )
        most, least = self.log_snr
        if most <= least:
            raise SettingsError(
                f"diffusion.log_snr is {self.log_snr}, but it falls from data to noise"
            )
        if self.discrete:
            return
        for name, usual in (("draw", "uniform"), ("spacing", "uniform"), ("variance", "posterior")):
            value = getattr(self, name)
            if value not in (usual, "optimal"):
                raise SettingsError(
                    f"diffusion.{name} is {value}, which needs a schedule of betas, and "
                    f"diffusion.schedule is {self.schedule}"
                )

    @property
    def discrete(self) -> bool:
        """Whether the schedule is one of betas."""
        return self.schedule not in ("flow", "edm", "learned")
