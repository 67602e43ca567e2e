"""What an accelerator does with the kernels: `python -m kernels.device_check`."""
