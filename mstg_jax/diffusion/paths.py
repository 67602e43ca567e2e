"""The ways from data to noise: the levels that training draws, and those that a sampler passes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Float64, PRNGKeyArray, Shaped

from mstg_jax.config import DiffusionConfig, SettingsError
from mstg_jax.diffusion.process import Level
from mstg_jax.diffusion.schedule import log_alpha_bar, make_schedule

FAST = np.array([0, 199, 399, 599, 699, 799, 849, 899, 949, 999]) / 999
"""The ten steps of Fast-DDPM that are not uniform, as shares of the last."""


class Edges(NamedTuple):
    """The levels that a sampler passes, from noise to clean data: signal 1, sigma 0.

    time: what the denoiser is told at each of them but the last.
    """

    time: Shaped[np.ndarray, " steps"]
    signal: Float64[np.ndarray, " levels"]
    sigma: Float64[np.ndarray, " levels"]


class Path(ABC):
    @abstractmethod
    def draw(self, key: PRNGKeyArray) -> Level:
        """A level to train on, of scalars."""

    @abstractmethod
    def edges(self, steps: int) -> Edges:
        """Raises SettingsError on a number of steps that the path does not have."""


def make_path(config: DiffusionConfig) -> Path:
    match config.schedule:
        case "flow":
            return Straight(config.steps)
        case "edm":
            return Karras(config.steps)
        case _:
            return Discrete(config)


@dataclass(frozen=True)
class Discrete(Path):
    """The T steps of a schedule of betas; time is the step, 0 to T - 1.

    `diffusion.draw` sampler: training draws the sampler's steps alone, and `diffusion.spacing`
    nonuniform: 6 of 10 steps lie in the last 30 % (Fast-DDPM, Jiang et al. 2025, arXiv:2405.14802,
    as its code has them).
    """

    config: DiffusionConfig

    def draw(self, key: PRNGKeyArray) -> Level:
        config = self.config
        if config.draw == "sampler":
            times = jnp.asarray(self.edges(config.sampler_steps).time)
            t = times[jax.random.randint(key, (), 0, len(times))]
        else:
            t = jax.random.randint(key, (), 0, config.steps)
        return make_schedule(config).at(t)

    def edges(self, steps: int) -> Edges:
        total = self.config.steps
        if not 1 <= steps <= total:
            raise SettingsError(f"{steps} sampler steps; the schedule allows 1..{total}")
        if self.config.spacing == "uniform":
            places = np.linspace(total - 1, -1, steps + 1)[:-1]
        else:
            shares = np.interp(np.linspace(1, 0, steps), np.linspace(0, 1, len(FAST)), FAST)
            places = shares * (total - 1)
        time = np.rint(places).astype(np.int32)
        if len(set(time.tolist())) < steps:
            raise SettingsError(
                f"{total} steps of the diffusion do not hold {steps} different steps with "
                "diffusion.spacing nonuniform; take fewer sampler steps, or spacing uniform"
            )
        log_bar = np.append(log_alpha_bar(self.config)[time], 0.0)
        return Edges(time, np.exp(log_bar / 2), np.sqrt(-np.expm1(log_bar)))


@dataclass(frozen=True)
class Straight(Path):
    """Rectified flow (Liu et al. 2023, arXiv:2209.03003): signal 1 - u and sigma u; time u T."""

    scale: int

    def draw(self, key: PRNGKeyArray) -> Level:
        u = jax.random.uniform(key)
        return Level(1 - u, u, u * self.scale)

    def edges(self, steps: int) -> Edges:
        u = np.linspace(1, 0, steps + 1)
        return Edges((u * self.scale)[:-1], 1 - u, u)


@dataclass(frozen=True)
class Karras(Path):
    """EDM (Karras et al. 2022, arXiv:2206.00364, table 1): signal 1, log sigma normal in training;
    time is log sigma, 0 to T from the least to the most."""

    scale: int
    least: float = 0.002
    most: float = 80.0
    rho: float = 7.0
    mean: float = -1.2
    deviation: float = 1.2

    def draw(self, key: PRNGKeyArray) -> Level:
        log_sigma = self.mean + self.deviation * jax.random.normal(key)
        low, high = np.log(self.least), np.log(self.most)
        time = self.scale * (log_sigma - low) / (high - low)
        return Level(jnp.ones_like(time), jnp.exp(log_sigma), time)

    def edges(self, steps: int) -> Edges:
        first, last = self.most ** (1 / self.rho), self.least ** (1 / self.rho)
        sigma = np.linspace(first, last, steps) ** self.rho
        low, high = np.log(self.least), np.log(self.most)
        time = self.scale * (np.log(sigma) - low) / (high - low)
        return Edges(time, np.ones(steps + 1), np.append(sigma, 0.0))
