"""The named starting points of a run, each with a tiny twin."""

from dataclasses import replace

from mstg_jax.config.motion import MotionConfig
from mstg_jax.config.settings import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)


def tiny(config: Config) -> Config:
    """The preset's twin for tests: the same code on small shapes."""
    return replace(
        config,
        data=replace(
            config.data,
            size=(16, 32, 32),
            spacing=(6.0, 4.5, 4.5),
            phantom_patients=(4, 2),
            phantom_size=(6, 32, 32),
            slices=4,
        ),
        model=replace(
            config.model,
            channels=(4, 8),
            mixer_stages=(1,),
            d_state=4,
            deformation_channels=(4, 4),
        ),
        motion=replace(config.motion, channels=(4, 8), synthesis_channels=4, radius=1),
        diffusion=replace(config.diffusion, steps=50, frames=2, sampler_steps=2),
        r2net=replace(config.r2net, blocks=2),
        ukan=replace(
            config.ukan, channels=(4, 8), tokens=(8, 8), time_dim=8, steps=50, validation_steps=2
        ),
        cgan=replace(config.cgan, channels=(4, 8), blocks=1, discriminator=(4, 8)),
        train=replace(
            config.train, steps=4, validate_every=4, validate_patients=1, save_every=2, log_every=1
        ),
    )


PAPER = Config()
DDM = replace(PAPER, method="ddm", optim=OptimConfig(learning_rate=2e-4))
ACDC_SMALL = replace(
    PAPER,
    data=DataConfig(size=(32, 96, 96)),
    # The scan over the finer stages' tokens would take most of a step on a CPU.
    model=ModelConfig(mixer_stages=(2, 3)),
    optim=OptimConfig(learning_rate=5e-4, warmup=100, decay="cosine", clip=1.0, ema=0.99),
    train=TrainConfig(steps=1500, validate_every=500, save_every=250),
)
BETWEEN = replace(
    ACDC_SMALL,
    method="between",
    data=DataConfig(size=(32, 96, 96), depth="native", pairs=0.3),
    model=ModelConfig(channels=(8, 16, 32), mixer_stages=(2,)),
    motion=MotionConfig(label_weight=1.5, bilateral=False),
    optim=replace(ACDC_SMALL.optim, learning_rate=1e-3, betas=(0.9, 0.99), ema=0.998),
)
CINE = replace(
    BETWEEN,
    data=replace(BETWEEN.data, pairs=1.0, longest=6),
    motion=MotionConfig(bend=True),
)
# What a newcomer waits for: few patients, each of which comes twelve times, so no augmentation;
# small networks, which compile fast; few steps.
DEMO = replace(
    BETWEEN,
    data=replace(
        BETWEEN.data,
        size=(16, 64, 64),
        spacing=(6.0, 2.2, 2.2),
        slices=10,
        augment=False,
        phantom_patients=(16, 4),
    ),
    model=ModelConfig(channels=(8, 16, 24), mixer_stages=(2,)),
    motion=MotionConfig(channels=(16, 24, 32), synthesis_channels=24),
    optim=replace(BETWEEN.optim, learning_rate=2e-3, warmup=30),
    train=TrainConfig(steps=400, validate_every=200, save_every=200),
)

FULL_PRESETS: dict[str, tuple[str, Config]] = {
    "demo": ("between on the phantom: a beating heart on a CPU in minutes", DEMO),
    "acdc-small": ("mstg on real data on a CPU: 96 x 96 x 32; set --data.root", ACDC_SMALL),
    "acdc-between": (
        "between on real data on a CPU, motion from both ends: the best frames",
        BETWEEN,
    ),
    "acdc-cine": ("between for neighbouring frames of a cine: denser cines", CINE),
    "paper": ("mstg as in the paper, 128 x 128 x 32; set --data.root", PAPER),
    "ddm": ("DDM (Kim & Ye 2022) with its own settings, 128 x 128 x 32", DDM),
    "direct": (
        "mstg that samples the frames themselves by reverse diffusion",
        replace(PAPER, method="direct"),
    ),
}
PRESETS: dict[str, tuple[str, Config]] = FULL_PRESETS | {
    f"{name}-tiny": (f"{name}'s twin for tests: seconds on a CPU", tiny(config))
    for name, (_, config) in FULL_PRESETS.items()
}
