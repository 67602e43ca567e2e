"""Train a method: `python train.py [PRESET] [--flags]`, continue with `--resume`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mstg_jax.cli import parse_train
from mstg_jax.command import command, leave
from mstg_jax.config import Config, SettingsError, UserError, validating


@command("train.py")
def main(argv: Sequence[str]) -> int:
    config = parse_train(argv)
    # Everything below takes seconds to import; --help and wrong flags should not wait for it.
    import jax

    from mstg_jax.methods.platform import keep_programs

    if config.train.distributed:
        jax.distributed.initialize()
    keep_programs(config.data.cache)
    return train(config)


def train(config: Config) -> int:
    import jax
    import numpy as np
    from tqdm import tqdm

    from mstg_jax import runs
    from mstg_jax.data.pipeline import load_examples, train_iterator
    from mstg_jax.methods import make_method
    from mstg_jax.training.checkpoint import Checkpoints
    from mstg_jax.training.log import RunLog
    from mstg_jax.training.sharding import make_mesh, replicate, to_device
    from mstg_jax.training.state import init_state, make_optimiser, parameter_count
    from mstg_jax.training.step import make_train_step
    from mstg_jax.training.stop import StopRequest
    from mstg_jax.training.validation import validate

    settings, method = config.train, make_method(config)
    quick = make_method(validating(config))
    if not method.trainable:
        raise SettingsError(
            f"method {config.method} has no parameters; sample.py shows it beside every run"
        )
    training, validation = load_examples(config.data)
    mesh = make_mesh(settings.batch)
    batches = train_iterator(
        training,
        batch=settings.batch // jax.process_count(),
        seed=settings.seed,
        frames=config.diffusion.frames if config.method == "direct" else 1,
        augment=config.data.augment,
        shard=(jax.process_index(), jax.process_count()),
    )
    optimiser = make_optimiser(config.optim, settings.steps)
    graph, state = init_state(method, optimiser, settings.seed)
    state = replicate(state, mesh)
    first = jax.process_index() == 0

    if config.resume:
        run = runs.find(config.run)
    else:
        run = runs.create(config) if first else Path(str(config.run))
    with Checkpoints(run, settings.keep) as checkpoints:
        if config.resume:
            state = checkpoints.restore(state, batches)
            if first:
                runs.remember(run, config)
            print(f"resumed {run} at step {int(state.step)}")
        start = int(state.step)
        train_step = make_train_step(method, graph, optimiser, config.optim, mesh)
        key = jax.random.key(settings.seed)
        print(
            f"{config.method}: {parameter_count(state.params):,} parameters, {len(training)} "
            f"training and {len(validation)} validation patients, {jax.device_count()} x "
            f"{jax.devices()[0].device_kind} -> {run}"
        )
        bar = tqdm(
            initial=start,
            total=settings.steps,
            unit="step",
            disable=not first,
            mininterval=0.1 if sys.stderr.isatty() else 30,  # a log file wants lines, not frames
        )
        with RunLog(run, start, write=first) as log, StopRequest() as stop, bar:
            for step in range(start + 1, settings.steps + 1):
                batch = next(batches)
                state, metrics = train_step(state, to_device(batch, mesh), key)
                values = {name: float(value) for name, value in metrics.items()}
                stop.listen()
                bar.update()
                bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
                if not np.isfinite(values["loss"]) or not np.isfinite(values["grad_norm"]):
                    names = ", ".join(training[i].id for i in batch["patient"])
                    raise UserError(
                        f"stopped: step {step} has loss {values['loss']} and gradient norm "
                        f"{values['grad_norm']} on {names}; the last good checkpoint is "
                        f"{checkpoints.last_good()}"
                    )
                if step % settings.log_every == 0 or step == settings.steps:
                    log.add(step, "train", values)
                if step % settings.save_every == 0 or step == settings.steps:
                    checkpoints.save(state, config, batches)
                if first and (step % settings.validate_every == 0 or step == settings.steps):
                    picture = run / "pictures" / f"step-{step:06d}.png"
                    chosen = validation[: settings.validate_patients]
                    model = (graph, jax.device_get(state.ema))  # this process's own copy
                    scores = validate(quick, model, chosen, picture)
                    log.add(step, "validation", scores)
                    shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
                    bar.write(f"step {step}: {shown or 'nothing to score'}; {picture}")
                if stop.requested:  # asked here, so that a request during validation is saved too
                    checkpoints.save(state, config, batches)
                    break
    print(f"{'stopped' if stop.requested else 'done'} at step {int(state.step)}: {run}")
    if stop.requested:
        print(f"continue with: python train.py --resume --run {run}")
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
