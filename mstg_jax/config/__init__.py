"""Every setting of a run. Standard library only, so that --help is instant."""

from mstg_jax.config.baselines import CGANConfig, R2NetConfig, RegisterConfig, UKANConfig
from mstg_jax.config.checks import SettingsError, UserError
from mstg_jax.config.cluster import ClusterConfig
from mstg_jax.config.diffusion import DiffusionConfig, Prediction, Sampler, ScheduleName
from mstg_jax.config.direct import GROUPS, SAMPLED, Condition, DirectConfig, Group
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
    "GROUPS",
    "PRESETS",
    "SAMPLED",
    "BranchName",
    "CGANConfig",
    "ClusterConfig",
    "Condition",
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "DirectConfig",
    "Group",
    "MeshConfig",
    "MethodName",
    "ModelConfig",
    "MotionConfig",
    "OptimConfig",
    "Order",
    "Precision",
    "Prediction",
    "R2NetConfig",
    "RegisterConfig",
    "Sampler",
    "ScheduleName",
    "SettingsError",
    "TrainConfig",
    "UKANConfig",
    "UserError",
    "differences",
    "from_json",
    "tiny",
    "to_json",
]
