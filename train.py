"""Train a method: `python train.py [PRESET] [--flags]`, continue with `--resume`; or several, with
`--sweep SETTING=VALUE,VALUE`."""

import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mstg_jax import runs
from mstg_jax.children import STOPPED, end_with_parent
from mstg_jax.cli import parse_train
from mstg_jax.command import command, leave
from mstg_jax.config import Config, SettingsError
from mstg_jax.sweep.cells import split

log = logging.getLogger("mstg_jax.train")
BEGAN = time.monotonic()


@command("train.py")
def main(argv: Sequence[str]) -> int:
    end_with_parent()
    if (asked := split(argv)) is None:
        config = parse_train(argv)
        if not config.cluster.joins:
            return start(config)
        from mstg_jax.training.guard import guard, guarded

        return start(config) if guarded() else guard(config)
    from mstg_jax.sweep.run import sweep

    return sweep(asked, sys.argv[0], start)


def start(config: Config) -> int:
    # NumPy's products are small here, and its threads, waiting busily, take a core from XLA's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Everything below takes seconds to import; --help and wrong flags should not wait for it.
    from mstg_jax.methods.platform import prepare
    from mstg_jax.training.processes import alone_among, join

    prepare(config)
    if config.cluster.joins:
        join(config.cluster)
    elif others := alone_among():
        log.warning(f"{others}, but this one trains alone: --cluster.auto joins them")
    return train(config)


def train(config: Config) -> int:
    import jax
    import numpy as np

    from mstg_jax.methods import make_method
    from mstg_jax.training.background import in_background
    from mstg_jax.training.initial import with_weights_of
    from mstg_jax.training.sharding import (
        batch_shapes,
        make_mesh,
        replicate,
        to_device,
    )
    from mstg_jax.training.state import init_state, make_optimiser
    from mstg_jax.training.step import compiled_step, make_train_step

    settings, method = config.train, make_method(config)
    until = BEGAN + 60 * settings.minutes if settings.minutes else math.inf
    quick = make_method(config, quick=True)
    if not method.trainable:
        raise SettingsError(
            f"method {config.method} has no parameters; sample.py shows it beside every run"
        )
    mesh = make_mesh(config)
    structure, state = init_state(
        method, make_optimiser(config.optim, settings.steps), settings.seed
    )
    if config.init is not None and not config.resume:
        source = runs.find(config.init)
        state = with_weights_of(source, runs.read_config(source), structure, state)
    state, key = replicate(state, mesh), jax.random.key(settings.seed)
    step_of = make_train_step(
        method, structure, config.optim, mesh, settings.accumulate, config.precision
    )
    first = jax.process_index() == 0
    shapes = batch_shapes(config, method.frames, mesh)
    log.info("compiling the training step, while the data is read")
    program = in_background(lambda: compiled_step(step_of, state, shapes, key))
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from mstg_jax.data.pipeline import load_examples
    from mstg_jax.data.stream import train_iterator
    from mstg_jax.devices import DEVICES
    from mstg_jax.training.checkpoint import Checkpoints
    from mstg_jax.training.log import RunLog
    from mstg_jax.training.processes import depending, together
    from mstg_jax.training.profile import Profile
    from mstg_jax.training.stop import StopRequest
    from mstg_jax.training.validation import validate
    from mstg_jax.training.watch import Pace, Watch

    with together():
        training, validation = load_examples(config.data)
    with together():
        if config.resume:
            run = runs.find(config.run)
        else:
            run = runs.create(config) if first else Path(str(config.run))
    with Checkpoints(run, structure, settings.keep) as checkpoints:
        if config.resume:
            with together():
                state = replicate(checkpoints.restore(), mesh)
            if first:
                runs.remember(run, config)
            log.info(f"resumed {run} at step {int(state.step)}")
        done = int(state.step)
        batches = train_iterator(
            training,
            config.data,
            batch=settings.batch // jax.process_count(),
            seed=settings.seed,
            frames=method.frames,
            ends=method.ends,
            shard=(jax.process_index(), jax.process_count()),
            start=done,
        )
        log.info(
            f"{config.method}: {state.params.size:,} parameters, {len(training)} "
            f"training and {len(validation)} validation patients, {jax.device_count()} x "
            f"{jax.devices()[0].device_kind} -> {run}"
        )
        (train_step, operations), watch = program.result(), Watch(checkpoints.last_good)
        known = DEVICES.get(jax.devices()[0].device_kind)
        peak = None if known is None else known.peak(config.precision)
        pace = Pace(done, settings.batch, operations, peak)

        def due(step: int, every: int) -> bool:
            return step % every == 0 or step == settings.steps

        bar = tqdm(
            initial=done,
            total=settings.steps,
            unit="step",
            disable=not (first and log.isEnabledFor(logging.INFO)),
            mininterval=0.1 if sys.stderr.isatty() else 30,  # a log file wants lines, not frames
        )
        with (
            RunLog(run, done, write=first) as numbers,
            StopRequest(until) as stop,
            Profile(run, *settings.profile) as profile,
            bar,
            logging_redirect_tqdm(),
            depending(run),
        ):
            for step in range(done + 1, settings.steps + 1):
                profile.reached(step)
                with pace.waiting():
                    batch = next(batches)
                state, metrics = train_step(
                    state, to_device(batch, mesh), key, np.int32(settings.steps)
                )
                watch.add(step, metrics, [training[i].id for i in batch["patient"]])
                stop.listen()
                bar.update()
                bar.set_postfix(loss=f"{watch.loss:.4f}", refresh=False)
                if due(step, settings.log_every):
                    numbers.add(step, "train", watch.values())
                    numbers.add(step, "cost", pace.values(step))
                scores = None
                with pace.apart():
                    if due(step, settings.validate_every):
                        watch.check()  # first, so that only finite weights are scored and saved
                        picture = run / "pictures" / f"step-{step:06d}.png"
                        chosen = validation[: settings.validate_patients]
                        model = (structure.graph, structure.params(np.array(state.ema)))
                        scores = validate(quick, model, chosen, picture)
                        numbers.add(step, "validation", scores)
                        shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
                        log.info(f"step {step}: {shown or 'nothing to score'}; {picture}")
                    if due(step, settings.save_every) or scores:
                        watch.check()
                        checkpoints.save(state, config, scores)
                # Asked here, so that a request during validation is saved too.
                if stopped := stop.reached(step):
                    watch.check()
                    checkpoints.save(state, config)
                    break
            else:
                stopped = False
    if first:
        print(f"{'stopped' if stopped else 'done'} at step {int(state.step)}: {run}")
        if stopped:
            print(f"continue with: python train.py --resume --run {run}")
    return STOPPED if stopped else 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
