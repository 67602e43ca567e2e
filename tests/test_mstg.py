"""The MSTG module and the denoiser: shapes, ablations, and that every weight learns."""

from dataclasses import fields, replace

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from mstg_jax.config import ModelConfig, SettingsError
from mstg_jax.models.denoiser import Denoiser
from mstg_jax.models.mstg import MSTG, MambaMixer
from mstg_jax.training.state import parameter_count

TINY = ModelConfig(channels=(4, 8), mixer_stages=(0, 1), d_state=2)
T = jnp.array([3])


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def rng():
    return np.random.default_rng(0)


def denoiser(**changes):
    return Denoiser(3, 1, replace(TINY, **changes), rng=rng())


def slopes(model, *inputs):
    """The output, and the gradient of its mean square by every parameter, by name."""
    graph, params = nnx.split(model, nnx.Param)

    @jax.jit
    def run(params, *inputs):
        def loss(params):
            y = nnx.merge(graph, params)(*inputs)
            return jnp.mean(jnp.square(y)), y

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, y), gradients = run(params, *inputs)
    named = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(gradients))
    return y, {jax.tree_util.keystr(path): np.asarray(value) for path, value in named}


def awake(model):
    """The same model with a rebuilding convolution that is not zero."""
    for path, module in nnx.iter_modules(model):
        if isinstance(module, MambaMixer):
            module.rebuild.kernel[...] = 0.3 * normal(len(path), *module.rebuild.kernel.shape)
    return model


def assert_every_weight_learns(gradients):
    for name, slope in gradients.items():
        assert np.all(np.isfinite(slope)), name
        assert np.any(slope != 0), name


def test_a_new_module_is_its_local_part():
    module = MSTG(4, 8, TINY, mixer=True, rng=rng())
    x, time = normal(0, 1, 1, 4, 4, 4, 4), normal(1, 1, 8)
    np.testing.assert_array_equal(
        jax.jit(lambda x: module(x, time))(x), jax.jit(lambda x: module.local(x, time))(x)
    )


def test_number_of_parameters_is_ddms():
    """Without a mixer the network is DDM's (its own code, counted)."""
    model = Denoiser(3, 1, ModelConfig(mixer="none"), rng=rng())
    assert parameter_count(nnx.state(model, nnx.Param)) == 715_665


ABLATIONS = {
    "default": {},
    "spatial branch": {"branches": ("spatial",)},
    "temporal branch": {"branches": ("temporal",)},
    "orders": {"spatial_order": "hilbert", "temporal_order": "zigzag"},
    "triaxis": {"spatial_order": "triaxis"},
    "one direction": {"bidirectional": False},
    "no gate": {"gate": False},
    "no linear": {"linear": False},
    "no residual": {"residual": False},
    "no attention": {"branch_attention": False},
    "shared directions": {"shared_directions": True},
    "scan": {"scan": "associative", "d_conv": 2, "expand": 1},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_mixer_ablations(name):
    """Two frames; every parameter of the variant has a finite gradient that is not zero."""
    mixer = awake(MambaMixer(8, replace(TINY, **ABLATIONS[name]), rng=rng()))
    y, gradients = slopes(mixer, normal(0, 1, 2, 2, 4, 2, 8))
    assert y.shape == (1, 2, 2, 4, 2, 8)
    assert_every_weight_learns(gradients)
    parts = {"gate": "no gate", "linear": "no linear", "attention": "no attention"}
    for part, without in parts.items():
        assert any(f"'{part}'" in key for key in gradients) == (name != without)
    assert mixer.mamba.in_proj.shape[0] == {
        "spatial branch": 2,
        "temporal branch": 2,
        "triaxis": 8,
        "one direction": 2,
        "shared directions": 2,
    }.get(name, 4)


CHANGES = {
    "channels": (4, 12),
    "depth": 2,
    "mixer": "attention",
    "mixer_stages": (1,),
    "branches": ("spatial",),
    "spatial_order": "zigzag",
    "temporal_order": "hilbert",
    "bidirectional": False,
    "d_state": 3,
    "shared_directions": True,
    "expand": 1,
    "expand_stages": (1, 2),
    "pooled_stages": (0,),
    "d_conv": 2,
    "branch_attention": False,
    "gate": False,
    "linear": False,
    "residual": False,
    "skips": False,
    "pooling": "max",
    "groups": 2,
    "heads": 2,
    "time_dim": 4,
    "remat": "modules",
    "scan": "associative",
}
NOT_THE_DENOISERS = {"deformation_channels"}


def test_every_flag_of_the_model_changes_the_computation():
    """Its operations, their shapes, or the constants in them."""

    def computation(**changes):
        graph, params = nnx.split(denoiser(**changes), nnx.Param)
        closed = jax.make_jaxpr(lambda params, x: nnx.merge(graph, params)(x, T))(
            params, normal(0, 1, 2, 4, 4, 4, 3)
        )
        return str(closed.jaxpr), [np.asarray(x).tobytes() for x in closed.consts]

    before, known = computation(), {field.name for field in fields(ModelConfig)}
    assert CHANGES.keys() == known - NOT_THE_DENOISERS
    assert computation() == before
    for name, value in CHANGES.items():
        assert computation(**{name: value}) != before, name


def test_both_directions_of_shared_weights_are_alike():
    """A mixer that sees the voxels in reverse, as one walk does, gives the reverse."""
    config = replace(TINY, branches=("spatial",), shared_directions=True)
    mixer = awake(MambaMixer(4, config, rng=rng()))
    mixer.rebuild.kernel[...] *= jnp.zeros((3, 3, 3, 1, 1)).at[1, 1, 1].set(1)  # each voxel alone
    run, x = jax.jit(lambda x: mixer(x)), normal(0, 1, 1, 2, 4, 2, 4)
    turned = x[:, :, ::-1, ::-1, ::-1]
    np.testing.assert_allclose(run(turned), run(x)[:, :, ::-1, ::-1, ::-1], atol=1e-5)
    apart = replace(config, shared_directions=False)
    other = awake(MambaMixer(4, apart, rng=rng()))
    assert not np.allclose(other(turned), other(x)[:, :, ::-1, ::-1, ::-1], atol=1e-3)


def test_a_pooled_mixer_sees_means():
    """What differs within the voxels that are pooled, and not in their mean, changes nothing but
    the input that is added; every weight learns."""
    mixer = awake(MambaMixer(8, TINY, pool=(2, 2, 2), rng=rng()))
    mixer.norm = nnx.identity
    x = normal(0, 1, 2, 2, 4, 4, 8)
    checks = normal(1, *x.shape)
    checks = checks - by_mean(checks)
    run = jax.jit(lambda x: mixer(x) - x)
    np.testing.assert_allclose(run(x + checks), run(x), atol=1e-4)
    _, gradients = slopes(awake(MambaMixer(8, TINY, pool=(1, 2, 2), rng=rng())), x)
    assert_every_weight_learns(gradients)


def by_mean(x):
    b, f, d, h, w, c = x.shape
    blocks = x.reshape(b, f, d // 2, 2, h // 2, 2, w // 2, 2, c)
    return jnp.broadcast_to(blocks.mean((3, 5, 7), keepdims=True), blocks.shape).reshape(x.shape)


def test_without_the_residual_a_new_mixer_gives_zero():
    x = normal(0, 1, 1, 2, 2, 4, 4)
    for residual in (True, False):
        mixer = MambaMixer(4, replace(TINY, residual=residual), rng=rng())
        np.testing.assert_array_equal(jax.jit(lambda x, m=mixer: m(x))(x), x * float(residual))


@pytest.mark.parametrize(
    "changes",
    [
        {"mixer_stages": (1,), "branches": ("temporal",)},
        {"mixer": "attention", "skips": False, "pooling": "max"},
    ],
)
def test_denoiser_learns(changes):
    """Every weight of the network, the stem's and the time embedding's included."""
    y, gradients = slopes(awake(denoiser(**changes)), normal(0, 1, 2, 4, 4, 8, 3), T)
    assert y.shape == (1, 2, 4, 4, 8, 1)
    # Squeeze and excite has 2 hidden units here, and a ReLU may have both off.
    squeezes = "['branches'][0]['attention']"
    assert_every_weight_learns({k: g for k, g in gradients.items() if squeezes not in k})
    assert all(any(name in key for key in gradients) for name in ("'stem'", "'time'", "'mixer'"))


DENOISERS = {
    "attention": {"mixer": "attention"},
    "none": {"mixer": "none"},
    "no skips": {"skips": False},
    "average": {"pooling": "average"},
    "max": {"pooling": "max"},
    "deeper": {"depth": 2},
    "stage 1": {"mixer_stages": (1,)},
    "remat": {"remat": "all"},
}


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("name", DENOISERS)
def test_denoiser_ablations_build_and_fit(name, frames):
    """Shapes only, and how the number of parameters changes; nothing is compiled."""
    graph, params = nnx.split(denoiser(**DENOISERS[name]), nnx.Param)
    y = jax.eval_shape(
        lambda p, x: nnx.merge(graph, p)(x, T), params, normal(0, 1, frames, 8, 16, 16, 3)
    )
    assert y.shape == (1, frames, 8, 16, 16, 1)
    default = parameter_count(nnx.state(denoiser(), nnx.Param))
    assert np.sign(parameter_count(params) - default) == {"deeper": 1, "remat": 0}.get(name, -1)


@pytest.mark.parametrize(("mixer", "remat"), [("none", "modules"), ("mamba", "all")])
def test_remat_changes_nothing(mixer: str, remat: str):
    x = normal(0, 1, 1, 4, 4, 4, 3)
    plain, remat = (
        slopes(denoiser(channels=(4,), mixer=mixer, mixer_stages=(0,), remat=r), x, T)
        for r in ("none", remat)
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mixer", "most"),
    [("none", {"modules": 0.7}), ("mamba", {"scans": 0.7, "modules": 0.7, "all": 0.5})],
)
def test_remat_saves_memory(mixer: str, most: dict[str, float]):
    """Of the program for this platform: CPU once compiled what is computed again only once."""

    def temporary(remat: str) -> int:
        model = denoiser(channels=(8,), mixer=mixer, mixer_stages=(0,), remat=remat)
        graph, params = nnx.split(model, nnx.Param)
        x = normal(0, 1, 1, 8, 16, 16, 3)
        grad = jax.jit(jax.grad(lambda p: jnp.sum(nnx.merge(graph, p)(x, T))))
        return grad.lower(params).compile().memory_analysis().temp_size_in_bytes

    whole = temporary("none")
    shares = {remat: temporary(remat) / whole for remat in most}
    assert all(shares[remat] < most[remat] for remat in most), shares


def test_settings_that_do_not_fit():
    with pytest.raises(SettingsError, match=r"2 branches do not divide 9 channels.*branches"):
        MambaMixer(9, TINY, rng=rng())
    with pytest.raises(SettingsError, match="0 branches"):
        MambaMixer(8, replace(TINY, branches=()), rng=rng())
    with pytest.raises(SettingsError, match=r"4 groups do not divide 6 channels.*model\.groups"):
        denoiser(channels=(6, 12))
