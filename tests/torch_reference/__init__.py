"""DDM, Mamba and MSTG in PyTorch, written to be read: what the parity tests compare with.

Axes are named as in mstg_jax/shapes.py; channels stand before the space, as torch has them:
volumes (b c d h w), features (b c f d h w). Modules compute in the type of their weights, float32
or, after `double()`, float64. Weights are there to be loaded; their initial values mean nothing.
"""
