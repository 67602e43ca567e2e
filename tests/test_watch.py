"""The numbers of the steps, asked of the device late."""

import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from mstg_jax.config import UserError
from mstg_jax.training.watch import Pace, Watch


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


def test_what_steps_cost(monkeypatch):
    """Ten steps in 20 seconds of a clock, of which data took 5; 7 more went for a validation."""
    now = 0.0
    monkeypatch.setattr("mstg_jax.training.watch.time.perf_counter", lambda: now)
    devices = jax.device_count()
    pace = Pace(100, batch=8, operations=4e12 * devices, peak=10e12)
    with pace.waiting():
        now = 5.0
    now = 15.0
    with pace.apart():
        now = 22.0
    now = 27.0
    found = pace.values(110)
    assert found.pop("memory") > 0
    assert found == pytest.approx(
        {
            "seconds": 2.0,
            "examples_per_second": 4.0,
            "waiting": 0.25,
            "tflops": 2.0 * devices,
            "peak_share": 0.2,
        }
    )
    now = 28.0
    assert pace.values(111) == pytest.approx(
        {
            "seconds": 1.0,
            "examples_per_second": 8.0,
            "waiting": 0.0,
            "memory": pytest.approx(1, abs=100),
            "tflops": 4.0 * devices,
            "peak_share": 0.4,
        }
    )


def test_nothing_is_saved_of_a_step_that_is_not_finite():
    """What saves asks for the newest step's numbers first."""
    watch = Watch(lambda: "none")
    watch.add(1, metrics(np.nan), ["patient001"])
    with pytest.raises(UserError, match="step 1 has loss nan"):
        watch.check()
