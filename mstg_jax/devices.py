"""What accelerators can do, by their makers' data sheets."""

from typing import NamedTuple


class Device(NamedTuple):
    """memory: bytes; bandwidth: bytes/s of it; products of a second, two operations each: in
    bfloat16, and of float32 arrays as XLA multiplies them by default (TF32 on GPUs, bfloat16 on
    TPUs). interconnect: bytes/s between devices of a slice or a machine, both ways together."""

    memory: float
    bandwidth: float
    bfloat16: float
    float32: float
    interconnect: float

    def peak(self, precision: str) -> float:
        """Operations per second."""
        return self.bfloat16 if precision == "bf16" else self.float32


DEVICES = {
    # cloud.google.com/tpu/docs/v5e, v5p and v6e
    "TPU v5 lite": Device(16e9, 819e9, 197e12, 197e12, 200e9),
    "TPU v5": Device(95e9, 2765e9, 459e12, 459e12, 600e9),
    "TPU v6 lite": Device(32e9, 1640e9, 918e12, 918e12, 448e9),
    # Data sheets of A100 (SXM), H100 (SXM) and H200 (SXM), without sparsity
    "NVIDIA A100-SXM4-80GB": Device(80e9, 2039e9, 312e12, 156e12, 600e9),
    "NVIDIA H100 80GB HBM3": Device(80e9, 3350e9, 989e12, 495e12, 900e9),
    "NVIDIA H200": Device(141e9, 4800e9, 989e12, 495e12, 900e9),
}
"""By JAX's device_kind."""
