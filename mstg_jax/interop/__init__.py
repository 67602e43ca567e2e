"""Weights from and to PyTorch: DDM's checkpoints, mamba-ssm's blocks, and MSTG made of both."""

from mstg_jax.interop.convert import Misfit, from_torch, mamba_from_torch, mamba_to_torch, to_torch
from mstg_jax.interop.files import read_tensors, write_tensors

__all__ = [
    "Misfit",
    "from_torch",
    "mamba_from_torch",
    "mamba_to_torch",
    "read_tensors",
    "to_torch",
    "write_tensors",
]
