"""Devices by name, for which XLA compiles without having them."""

import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mstg_jax.config import SettingsError
from mstg_jax.devices import DEVICES


class Gpu(NamedTuple):
    """capability: of CUDA, times ten; shared: bytes of a multiprocessor; block: of a block."""

    kind: str
    capability: int
    multiprocessors: int
    shared: int
    block: int


GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 80, 108, 167936, 166912),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 90, 132, 233472, 232448),
    "h200": Gpu("NVIDIA H200", 90, 132, 233472, 232448),
}
TPUS = {"v5e": 2, "v6e": 2, "v5p": 3}
"""Axes of their slices."""
GPU_FLAGS = "--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false"
PER_MACHINE = 8
"""GPUs; topologies of more are several machines."""

_GPU = """gpu_device_info {{
  name: "{kind}" core_count: {multiprocessors} shared_memory_per_core: {shared}
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {block}
  cuda_compute_capability {{ major: {major} {feature} }}
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  fpus_per_core: 128 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: 2000000000000 l2_cache_size: 41943040 clock_rate_ghz: 1.4
  device_memory_size: {memory} device_address_bits: 64
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{kind}"
"""


class Topology(NamedTuple):
    """name: v5e, h100, ...; shape: of the slice of a pod, or the number of GPUs."""

    name: str
    shape: tuple[int, ...]

    @property
    def platform(self) -> str:
        return "cuda" if self.name in GPUS else "tpu"

    def __str__(self) -> str:
        return f"{self.name}:{'x'.join(map(str, self.shape))}"


def parsed(text: str) -> Topology:
    """Of v5e:16x16, v5p:2x2x1 or h100:16. Raises SettingsError."""
    found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+){0,2})", text.lower())
    name, shape = found.groups() if found else ("", "")
    sizes = tuple(int(x) for x in shape.split("x") if x)
    axes = dict.fromkeys(GPUS, 1) | TPUS
    if name not in axes or len(sizes) != axes[name] or min(sizes) < 1:
        raise SettingsError(
            f"--topology is {text!r}; it is the shape of a TPU slice, as v5e:16x16, v6e:4x4 or "
            f"v5p:2x2x1, or a number of GPUs ({', '.join(GPUS)}), as h100:16"
        )
    return Topology(name, sizes)


def prepare(topology: Topology) -> None:
    """Before jax is imported. Raises SettingsError if the compiler is missing."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if topology.platform == "cuda":
        if not (find_spec("jax_cuda12_plugin") or find_spec("jax_cuda13_plugin")):
            raise SettingsError(f"{topology} needs XLA's compiler for GPUs: the gpu extra")
        # Else XLA would run candidates on the GPU; and without running them it takes a Triton
        # kernel for a product whose sizes it cannot tile, where there is a library's.
        flags = (os.environ.get("XLA_FLAGS", ""), *GPU_FLAGS)
        os.environ["XLA_FLAGS"] = " ".join(flags).strip()
        return
    found = find_spec("libtpu")
    if found is None or found.origin is None:
        raise SettingsError(f"{topology} needs XLA's compiler for TPUs: pip install libtpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["TPU_LIBRARY_PATH"] = str(Path(found.origin).with_name("libtpu.so"))


def devices(topology: Topology) -> Sequence[Any]:
    """For `make_mesh`. Raises SettingsError where there is no such slice."""
    import jax
    from jax.experimental import topologies

    try:
        if topology.platform == "tpu":
            return topologies.get_topology_desc(platform="tpu", topology_name=str(topology)).devices
        gpu, (count,) = GPUS[topology.name], topology.shape
        own = min(count, PER_MACHINE)
        if count % own:
            raise SettingsError(f"{topology}: more than {own} GPUs are a multiple of {own}")
        config = _GPU.format(
            **gpu._asdict(),
            memory=int(DEVICES[gpu.kind].memory),
            major=gpu.capability // 10,
            feature="feature_extension: ACCELERATED_FEATURES" if gpu.capability == 90 else "",
        )
        return topologies.get_topology_desc(
            platform="cuda", target_config=config, topology=f"1x{count // own}x{own}"
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise SettingsError(f"{topology}: {str(error).splitlines()[0]}") from None


def tracing_for(topology: Topology) -> AbstractContextManager[None]:
    """Around what is traced and compiled: kernels choose their blocks by the GPU."""
    if topology.platform == "tpu":
        return nullcontext()
    from kernels.selective_scan.gpu.launch import compiling_for

    return compiling_for(GPUS[topology.name].capability)
