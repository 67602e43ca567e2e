"""What a training step takes on devices that are not here: `python -m mstg_jax.plan`."""
