"""The numbers of the steps, asked of the device late."""

import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from mstg_jax.config import UserError
from mstg_jax.training.watch import Watch


def metrics(loss: float, norm: float = 1.0) -> dict[str, jax.Array]:
    return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(norm), "ncc": jnp.float32(0.5)}


def test_a_step_is_looked_at_when_the_next_is_under_way():
    watch = Watch(lambda: "none")
    assert math.isnan(watch.loss)
    watch.add(1, metrics(3.0), ["patient001"])
    assert math.isnan(watch.loss)
    watch.add(2, metrics(2.0), ["patient002"])
    assert watch.loss == 3.0
    assert watch.values() == {"loss": 2.0, "grad_norm": 1.0, "ncc": 0.5}
    assert watch.loss == 2.0


@pytest.mark.parametrize(("loss", "norm"), [(np.nan, 1.0), (1.0, np.inf)])
def test_a_step_that_is_not_finite_is_named_one_step_late(loss: float, norm: float):
    watch = Watch(lambda: "run/checkpoints/5")
    watch.add(6, metrics(loss, norm), ["patient001", "patient002"])
    with pytest.raises(UserError) as told:
        watch.add(7, metrics(1.0), ["patient003"])
    assert str(told.value) == (
        f"stopped: step 6 has loss {loss} and gradient norm {norm} on patient001, patient002; the "
        "last good checkpoint is run/checkpoints/5"
    )


def test_nothing_is_saved_of_a_step_that_is_not_finite():
    """What saves asks for the newest step's numbers first."""
    watch = Watch(lambda: "none")
    watch.add(1, metrics(np.nan), ["patient001"])
    with pytest.raises(UserError, match="step 1 has loss nan"):
        watch.check()
