"""Time and memory of the networks, beside PyTorch: `python -m mstg_jax.bench --vs torch`."""
