"""The scan on NVIDIA GPUs, in Triton; launch.py is the implementation. It needs the gpu extra."""
