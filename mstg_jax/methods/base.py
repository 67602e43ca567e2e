"""What a way of generating frames must offer, and the one place where a sequence is generated."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, Float32, PRNGKeyArray

from mstg_jax.diffusion.draws import Keys
from mstg_jax.methods.platform import compiler_options
from mstg_jax.shapes import Image

Batch = dict[str, Any]  # arrays, and a method's memory
Frames = Float[Array, "b t d h w 1"]
Flows = Float[Array, "b t d h w 3"]
Model = tuple[nnx.GraphDef, nnx.State]
Made = TypeVar("Made")
FRAMES_PER_PROGRAM = 4
USUAL_SHARE = 0.38
"""Of the cycle from ED to ES: the mean of 52 patients of ACDC."""


class Generated(NamedTuple):
    """Frames, with ED's range as [0, 1], and the displacement from ED (voxels) if there is one."""

    frames: Frames
    flow: Flows | None


class Ends(NamedTuple):
    """What a sequence lies between; images have ED's range as [0, 1].

    span: the share of the heart's cycle from one to the other, and the steps of time. bend: the
    second difference in time at either end, over steps as long as the span, 0 where it is unknown.
    """

    ed: Image
    es: Image
    span: Float[Array, "b 2"]
    bend: Float[Array, "b 2 d h w 1"]


Loss = Callable[[Any, Batch, Keys], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]]


class Turn(NamedTuple):
    """An update of the weights below the model's attribute `part`, by a loss like Method.loss."""

    part: str
    loss: Loss


class Method(ABC):
    """A way to make the frames between ED and ES. Images have ED's range as [0, 1].

    Subclasses are frozen dataclasses of their settings, which JAX takes as static arguments.
    """

    trainable: ClassVar[bool] = True
    deforms: ClassVar[bool] = False
    """Whether `generate` gives the displacement from ED."""

    @property
    @abstractmethod
    def halvings(self) -> tuple[int, int, int]:
        """How often the networks halve d, h and w: each must be a multiple of 2 to this power."""

    @property
    def frames(self) -> int:
        """How many of a patient's frames `loss` takes at once."""
        return 1

    @property
    def ends(self) -> bool:
        """Whether the first and the last of these are ED and ES themselves."""
        return False

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Updates that a training step takes one after the other; without any, all weights are
        updated at once by `loss`."""
        return ()

    @property
    def memory(self) -> Any:
        """Arrays that are kept from step to step of training, before the first: `loss` finds them
        in its batch as `memory`, and what it leaves among its parts as `seen` is `remembered`."""
        return ()

    def remembered(self, memory: Any, seen: Any) -> Any:
        """`memory` after a step. seen: means over the examples."""
        raise NotImplementedError

    @abstractmethod
    def build(self, rng: np.random.Generator) -> nnx.Module:
        """A new model; one without parameters if the method has none."""

    @abstractmethod
    def loss(
        self, model: Any, batch: Batch, keys: Keys
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Loss and its parts for a batch of data/pipeline.py whose volumes have a channel axis.

        All are means over its examples, each of which draws by its own key.
        """

    @abstractmethod
    def generate(
        self,
        model: Any,
        ends: Ends,
        gammas: Float[Array, "b t"],
        key: PRNGKeyArray,
    ) -> Generated:
        """The frames at `gammas`, 0 at ED to 1 at ES."""


def every_axis(count: int) -> tuple[int, int, int]:
    """`Method.halvings` of networks that treat d, h and w alike."""
    return count, count, count


def conditions(ed: Image, es: Image, gammas: Float[Array, "b t"]) -> Float[Array, "b t d h w 3"]:
    """What a frame is generated from: ED and ES in [-1, 1], and gamma as a constant channel."""
    shape = (*gammas.shape, *ed.shape[1:])
    volumes = [jnp.broadcast_to((2 * x - 1)[:, None], shape) for x in (ed, es)]
    gamma = jnp.broadcast_to(gammas[:, :, None, None, None, None], shape)
    return jnp.concatenate([*volumes, gamma], axis=-1)


def by_frame(make: Callable[[Float[Array, " b"]], Made], gammas: Float[Array, "b t"]) -> Made:
    """make(gamma) of every frame, one after the other; its arrays (b ...) come as (b t ...).

    Sequences are padded with their last gamma: such frames are not made again.
    """

    def step(before: tuple[Array, Made], gamma: Array) -> tuple[tuple[Array, Made], Made]:
        again = jnp.all(gamma == before[0])
        made = jax.lax.cond(again, lambda _: before[1], make, gamma)
        return (gamma, made), made

    shapes = jax.eval_shape(make, gammas[:, 0])
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    _, made = jax.lax.scan(step, (jnp.full_like(gammas[:, 0], jnp.nan), nothing), gammas.T)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), made)


@cache
def _generate() -> Callable[..., Generated]:
    """Made when it is first needed: asking for the compiler's options starts JAX's backend, which
    must not happen before processes have joined."""

    def generate(method: Method, graph: nnx.GraphDef, params, ends, gammas, key) -> Generated:
        return method.generate(nnx.merge(graph, params), ends, gammas, key)

    return jax.jit(generate, static_argnums=(0, 1), compiler_options=compiler_options())


def generation(
    method: Method, model: Model, size: tuple[int, int, int], frames: int
) -> jax.stages.Lowered:
    """The program that generates so many frames of one patient on a grid of this size (d h w)."""

    def array(*shape: int) -> Any:
        return jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    ends = Ends(array(*size, 1), array(*size, 1), array(2), array(2, *size, 1))
    frames += -frames % FRAMES_PER_PROGRAM
    return _generate().lower(method, *model, ends, array(frames), jax.random.key(0))


def new_model(method: Method, seed: int) -> Model:
    """A model with its initial weights, split into structure and weights."""
    graph, params = nnx.split(method.build(np.random.default_rng(seed)), nnx.Param)
    return graph, params


class FrameSequence(NamedTuple):
    """Generated frames of one patient on the host; flow in model voxels, None without one."""

    frames: Float32[np.ndarray, "t d h w"]
    flow: Float32[np.ndarray, "t d h w 3"] | None


def generate_sequence(
    method: Method,
    model: Model,
    ed: Float32[np.ndarray, "d h w"],
    es: Float32[np.ndarray, "d h w"],
    gammas: Float32[np.ndarray, " t"],
    seed: int = 0,
    span: tuple[float, float] | None = None,
    bend: Float32[np.ndarray, "2 d h w"] | None = None,
) -> FrameSequence:
    """The frames of one patient at `gammas`.

    Their number is padded to a multiple of FRAMES_PER_PROGRAM, so that patients with different
    numbers share compiled programs, and slices of zeros are added up to what networks halve. span,
    bend: see Ends; by default as from ED to ES, with a step between the gammas, and unknown.
    """
    count, slices = len(gammas), len(ed)
    padded = np.pad(gammas, (0, -count % FRAMES_PER_PROGRAM), mode="edge")
    missing = -slices % 2 ** method.halvings[0]
    bend = np.zeros((2, *ed.shape), np.float32) if bend is None else bend
    beside = [(0, missing), (0, 0), (0, 0)]
    first, last, *bends = (np.pad(x, beside)[..., None] for x in (ed, es, *bend))
    known = np.array(span or (USUAL_SHARE, max(1, count - 1)), np.float32)
    ends = Ends(*(jnp.asarray(x)[None] for x in (first, last, known, np.stack(bends))))
    out = _generate()(method, *model, ends, jnp.asarray(padded)[None], jax.random.key(seed))
    flow = None if out.flow is None else np.asarray(out.flow[0, :count, :slices])
    return FrameSequence(np.asarray(out.frames[0, :count, :slices, ..., 0]), flow)
