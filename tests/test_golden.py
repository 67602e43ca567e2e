"""Our models beside what the PyTorch reference computed once (tests/golden.py)."""

import golden
import jax
import numpy as np
import pytest
import trajectory
from flax import nnx
from jax import numpy as jnp

from mstg_jax import interop
from mstg_jax.methods import make_method, new_model
from mstg_jax.methods.base import Ends

each = pytest.mark.parametrize("name", golden.PRESET)
TOLERANCE = 1e-5  # of the largest value


def loaded(name):
    config, file = golden.config_of(name), golden.load(name)
    method = make_method(config)
    graph, like = new_model(method, seed=0)
    return config, method, graph, interop.from_torch(file.weights, like, config), file


def assert_close(got, wanted, size=None):
    assert got.shape == wanted.shape
    error = np.max(np.abs(got - wanted)) / (np.max(np.abs(wanted)) if size is None else size)
    assert error < TOLERANCE


@each
def test_frames(name):
    _, method, graph, params, file = loaded(name)
    values = file.values
    gammas = np.linspace(0, 1, golden.FRAMES, dtype=np.float32)[None]

    @jax.jit
    def run(params, ed, es, gammas):
        model = nnx.merge(graph, params)
        scaled = 2 * ed - 1, 2 * es - 1
        code = model.code(*scaled, scaled[1], jnp.zeros(len(ed), jnp.int32))
        ends = Ends(ed, es, jnp.ones((len(ed), 2), ed.dtype), jnp.stack([0 * ed] * 2, 1))
        return code, method.generate(model, ends, gammas, jax.random.key(0))

    code, (frames, flow) = run(params, values.ed, values.es, gammas)
    assert_close(code, values.code)
    assert_close(frames, values.frames)
    assert_close(flow, values.flow)


@each
def test_losses_and_gradients(name):
    """The first gradient of every weight, and the loss at each step of Adam."""
    config, method, graph, params, file = loaded(name)
    batch = {name: jnp.asarray(x) for name, x in (("ed", file.values.ed), ("es", file.values.es))}
    path = trajectory.in_jax(
        method, config, graph, params, batch, steps=golden.STEPS, rate=golden.RATE
    )
    found = interop.to_torch(path.gradients, config)
    size = max(np.max(np.abs(x)) for x in file.gradients.values())
    for tensor, wanted in file.gradients.items():
        assert_close(found[tensor], wanted, size)
    np.testing.assert_allclose(path.parts, file.values.parts, rtol=TOLERANCE)
    assert np.ptp(path.losses) > 1e-3 * abs(path.losses[0])
    np.testing.assert_allclose(path.losses, file.values.losses, rtol=1e-4)
