"""What the networks want of the compiler on the platform they run on."""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from mstg_jax.config import Config, Precision
from mstg_jax.models.precision import BFLOAT16

# YNNPACK's fusions, XLA's default on CPU since jax 0.10, are slow on our thin convolutions:
# 9.4 s against 4.6 s for DDM's step at 32 x 128 x 128 (2 cores, jax 0.10.2).
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}

# On CPU XLA gives every result a loop of its own, unrolls it, and LLVM compiles each of thousands.
# With these, demo's step compiles in half the time and takes no longer, as do those of all methods
# (2 cores, jax 0.10.2). An XLA that does not know an option ignores it.
MERGED, NOT_UNROLLED = "xla_cpu_use_multi_output_fusion", "xla_cpu_disable_loop_unrolling"


def compiler_options(platform: str | None = None) -> dict[str, str] | None:
    """For jax.jit; by default of the platform that JAX has, whose backend then starts."""
    return CPU_OPTIONS if (platform or jax.default_backend()) == "cpu" else None


def products_in(precision: Precision) -> AbstractContextManager[Any]:
    """Around what is traced: the type of products of weights, see models/precision.py."""
    return jax.default_matmul_precision(BFLOAT16 if precision == "bf16" else None)


def prepare(*configs: Config) -> None:
    """For every command that computes, before JAX's backend starts.

    Keeps compiled programs below the cache folder: a second start does not compile again. What
    JAX_COMPILATION_CACHE_DIR and XLA_FLAGS say wins; all is float32, whatever JAX_ENABLE_X64 says.
    """
    jax.config.update("jax_enable_x64", False)
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:
        # A tree of products, merged, computes its leaves again and again: ten times the step. On
        # what moves features XLA's compiler stops (jax 0.10.2: a check in symbolic_map.cc).
        apart = any(c.model.scan == "associative" or c.method == "between" for c in configs)
        extra = NOT_UNROLLED if apart else f"{MERGED},{NOT_UNROLLED}"
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_extra_options={extra}".strip()
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = Path(configs[0].data.cache).expanduser() / "programs"
        jax.config.update("jax_compilation_cache_dir", str(folder))
