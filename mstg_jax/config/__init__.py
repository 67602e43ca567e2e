"""Every setting of a run. Standard library only, so that --help is instant."""

from mstg_jax.config.baselines import CGANConfig, R2NetConfig, RegisterConfig, UKANConfig
from mstg_jax.config.checks import SettingsError, UserError
from mstg_jax.config.cluster import ClusterConfig
from mstg_jax.config.diffusion import DiffusionConfig, Sampler
from mstg_jax.config.mesh import MeshConfig
from mstg_jax.config.motion import MotionConfig
from mstg_jax.config.presets import FULL_PRESETS, PRESETS, tiny
from mstg_jax.config.settings import (
    BranchName,
    Config,
    DataConfig,
    MethodName,
    ModelConfig,
    OptimConfig,
    Order,
    Precision,
    TrainConfig,
)
from mstg_jax.config.stored import differences, from_json, to_json

__all__ = [
    "FULL_PRESETS",
    "PRESETS",
    "BranchName",
    "CGANConfig",
    "ClusterConfig",
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "MeshConfig",
    "MethodName",
    "ModelConfig",
    "MotionConfig",
    "OptimConfig",
    "Order",
    "Precision",
    "R2NetConfig",
    "RegisterConfig",
    "Sampler",
    "SettingsError",
    "TrainConfig",
    "UKANConfig",
    "UserError",
    "differences",
    "from_json",
    "tiny",
    "to_json",
]
