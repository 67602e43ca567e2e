"""What measures the scan: time, memory, and what the GPU kernels become."""
