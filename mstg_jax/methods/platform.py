"""What the networks want of the compiler on the platform they run on."""

from pathlib import Path

import jax

# YNNPACK's fusions, XLA's default on CPU since jax 0.10, are slow on our thin convolutions:
# 9.4 s against 4.6 s for DDM's step at 32 x 128 x 128 (2 cores, jax 0.10.2).
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def compiler_options() -> dict[str, str] | None:
    """For jax.jit; asking starts JAX's backend."""
    return CPU_OPTIONS if jax.default_backend() == "cpu" else None


def keep_programs(cache: str) -> None:
    """Keep compiled programs below the cache folder: a second start does not compile again.

    JAX_COMPILATION_CACHE_DIR wins.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = Path(cache).expanduser() / "programs"
        jax.config.update("jax_compilation_cache_dir", str(folder))
