"""Every setting of a run as frozen dataclasses."""

from dataclasses import dataclass, field
from typing import Literal

from mstg_jax.config.baselines import CGANConfig, R2NetConfig, RegisterConfig, UKANConfig
from mstg_jax.config.checks import SettingsError, positive, share
from mstg_jax.config.cluster import ClusterConfig
from mstg_jax.config.diffusion import DiffusionConfig
from mstg_jax.config.direct import DirectConfig, check_direct
from mstg_jax.config.mesh import MeshConfig
from mstg_jax.config.motion import MotionConfig

MethodName = Literal[
    "mstg",
    "between",
    "ddm",
    "direct",
    "voxelmorph",
    "r2net",
    "ukan",
    "cgan",
    "register",
    "copy",
    "blend",
]
Precision = Literal["float32", "bf16"]
Order = Literal["raster", "zigzag", "hilbert", "triaxis"]
BranchName = Literal["spatial", "temporal"]


@dataclass(frozen=True)
class DataConfig:
    """Where the volumes come from and the grid that they are brought to."""

    root: str | None = None
    """Folder in the ACDC layout. Without it a beating-heart phantom is written and used."""
    skip_bad: bool = False
    """Leave broken patients out and print them, instead of stopping before the first step."""
    cache: str = "~/.cache/mstg_jax"
    """Folder for preprocessed volumes and for the phantom."""
    spacing: tuple[float, float, float] = (3.15, 1.5, 1.5)
    """Voxel size of the model's grid, mm, as (d, h, w)."""
    size: tuple[int, int, int] = (32, 128, 128)
    """Voxels of the model's grid as (d, h, w); multiples of 16 with the default networks."""
    depth: Literal["resampled", "native"] = "resampled"
    """resampled: slices of the spacing above, interpolated. native: the patient's own slices, and
    spacing and size along d only say on what grid frames are scored."""
    slices: int = 8
    """With depth native, slices of a training example: of patients with more, so many in a row;
    with fewer, slices of zeros are added and masked."""
    thickness: float = 10.0
    """With depth native, the usual distance of slices in mm: networks halve depth where it is at
    most twice the distance of voxels in plane."""
    pairs: float = 0.0
    """Share of the training examples that lie between any two frames of the cycle, in either
    direction of time, instead of between ED and ES."""
    longest: int = 0
    """Most steps of time between such two frames; with 0, 0.7 of the cycle."""
    crop: Literal["centre", "heart"] = "centre"
    """What the crop is centred on: the image, or the heart (its labels, else what moves)."""
    percentiles: tuple[float, float] = (0.0, 100.0)
    """Percentiles of ED's intensities that become 0 and 1; by default its whole range, as in DDM.
    With 0.1 99.9 a few bright voxels do not darken all others. Values beyond are not clipped."""
    validation: float = 0.1
    """Share of the patients held out when the folder has no testing/ part."""
    augment: bool = True
    """DDM's augmentation: in-plane flips and transpose, each with probability 0.5."""
    rotate: float = 0.0
    """Training examples are turned in plane by up to so many degrees either way."""
    zoom: float = 0.0
    """Training examples are enlarged or made smaller in plane by up to this share: 0.1 for 10 %."""
    contrast: float = 0.0
    """Intensities of training examples are raised to a power between 1 / (1 + this) and 1 + this,
    which changes the contrast of dark to bright tissue."""
    phantom_patients: tuple[int, int] = (40, 10)
    """Phantom patients for training and for validation."""
    phantom_size: tuple[int, int, int] = (10, 96, 96)
    """Native voxels (slices, h, w) of the phantom's files."""
    phantom_seed: int = 0

    @property
    def grid(self) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
        """Voxels and spacing in mm of what a network is trained on, (d h w)."""
        if self.depth == "resampled":
            return self.size, self.spacing
        return (self.slices, *self.size[1:]), (self.thickness, *self.spacing[1:])

    def check(self) -> None:
        positive("data", self, "spacing", "size", "phantom_patients", "phantom_size")
        positive("data", self, "slices", "thickness")
        share("data", self, "validation", "zoom")
        if not 0 <= self.pairs <= 1:
            raise SettingsError(f"data.pairs is {self.pairs}, but it must lie in [0, 1]")
        if self.longest < 0 or self.longest == 1:
            raise SettingsError(f"data.longest is {self.longest}, but it must be 0, or 2 or more")
        if not 0 <= self.rotate <= 180:
            raise SettingsError(
                f"data.rotate is {self.rotate}, but it must lie in [0, 180] degrees"
            )
        if self.contrast < 0:
            raise SettingsError(f"data.contrast is {self.contrast}, but it must be 0 or more")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise SettingsError(
                f"data.percentiles is {self.percentiles}, but needs two numbers in [0, 100], the "
                "lower one first"
            )


@dataclass(frozen=True)
class ModelConfig:
    """The denoiser and the deformation network; each item is an ablation."""

    channels: tuple[int, ...] = (8, 16, 32, 32)
    """Channels of the stages, from full resolution down."""
    depth: int = 1
    """Modules per encoder stage; the decoder has one more per stage."""
    mixer: Literal["mamba", "attention", "none"] = "mamba"
    """Global mixer inside the MSTG module; `none` leaves DDM's residual block."""
    mixer_stages: tuple[int, ...] = (0, 1, 2, 3)
    """Stages that carry the mixer; the middle counts as the last stage."""
    branches: tuple[BranchName, ...] = ("spatial", "temporal")
    spatial_order: Order = "raster"
    temporal_order: Order = "raster"
    bidirectional: bool = True
    d_state: int = 16
    shared_directions: bool = False
    """Both directions of a walk have the same weights."""
    expand: int = 2
    expand_stages: tuple[int, ...] = ()
    """The same for each stage, where it is not alike at all of them."""
    pooled_stages: tuple[int, ...] = ()
    """Stages at which the mixer sees means of the voxels that the next stage sees as one: an eighth
    of the tokens."""
    d_conv: int = 4
    branch_attention: bool = True
    """Squeeze-and-excite of each branch's channels before its scan."""
    gate: bool = True
    """Fuse the branches as sigmoid(Linear(x)) * x; without it they are concatenated."""
    linear: bool = True
    """The linear layer after the fusion."""
    residual: bool = True
    """Add the local features to the module's output."""
    skips: bool = True
    """Skip connections from encoder to decoder."""
    pooling: Literal["conv", "average", "max"] = "conv"
    """Downsampling between the stages."""
    groups: int = 4
    heads: int = 4
    time_dim: int = 8
    deformation_channels: tuple[int, ...] = (16, 32, 32, 32, 32)
    """Encoder channels of the deformation network; the first at full resolution."""
    scan: Literal["sequential", "associative", "reference", "triton", "pallas_tpu"] | None = None
    """Implementation of the selective scan; None chooses by platform."""
    remat: Literal["none", "scans", "modules", "all"] = "none"
    """What the backward pass computes again, for less memory in more time: each scan, each module,
    or each module and, within it, each scan."""

    def check(self) -> None:
        positive("model", self, "channels", "depth", "d_state", "expand", "d_conv", "groups")
        positive("model", self, "heads", "time_dim", "deformation_channels")
        if not self.branches:
            raise SettingsError("model.branches is empty; it needs spatial, temporal or both")
        if stages := [s for s in self.mixer_stages if not 0 <= s < len(self.channels)]:
            raise SettingsError(
                f"model.mixer_stages names {stages}, but there are stages "
                f"0..{len(self.channels) - 1}"
            )
        if self.expand_stages:
            positive("model", self, "expand_stages")
            if len(self.expand_stages) != len(self.channels):
                raise SettingsError(
                    f"model.expand_stages is {self.expand_stages}, but there are "
                    f"{len(self.channels)} stages: it needs as many, or none"
                )
        last = len(self.channels) - 1
        if stages := [s for s in self.pooled_stages if s not in self.mixer_stages or s >= last]:
            raise SettingsError(
                f"model.pooled_stages names {stages}, but only stages of model.mixer_stages that "
                f"have another one below them, which the last, {last}, has not, can be pooled"
            )
        if len(self.deformation_channels) < 2:
            raise SettingsError(
                f"model.deformation_channels is {self.deformation_channels}, but the deformation "
                "network needs at least 2 stages"
            )


@dataclass(frozen=True)
class OptimConfig:
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    warmup: int = 0
    """Steps of linear warm-up."""
    decay: Literal["constant", "cosine"] = "constant"
    clip: float = 0.0
    """Largest global gradient norm; 0 leaves gradients as they are."""
    ema: float = 0.999
    """Decay of the averaged weights that validation and sampling use; 0 turns the average off."""

    def check(self) -> None:
        positive("optim", self, "learning_rate")
        share("optim", self, "ema")


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 72_000
    batch: int = 1
    """Patients per step over all devices."""
    accumulate: int = 1
    """Pieces of the batch that are computed one after the other: the same result, less memory."""
    seed: int = 0
    validate_every: int = 1000
    validate_patients: int = 4
    """Held-out patients per validation."""
    save_every: int = 500
    keep: int = 3
    """Checkpoints kept."""
    log_every: int = 10
    profile: tuple[int, int] = (0, 0)
    """First step and number of steps of a trace for TensorBoard, in the run's folder `profile`."""
    minutes: float = 0.0
    """Stop before so many are over, save, and end with exit code 75; 0 is no limit."""

    def check(self) -> None:
        positive("train", self, "steps", "batch", "validate_every", "validate_patients")
        positive("train", self, "save_every", "keep", "log_every", "accumulate")
        if min(self.profile) < 0:
            raise SettingsError(f"train.profile is {self.profile}, but needs two numbers from 0 up")
        if self.minutes < 0:
            raise SettingsError(f"train.minutes is {self.minutes}, but it must be 0 or more")


@dataclass(frozen=True)
class Config:
    method: MethodName = "mstg"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    direct: DirectConfig = field(default_factory=DirectConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    register: RegisterConfig = field(default_factory=RegisterConfig)
    r2net: R2NetConfig = field(default_factory=R2NetConfig)
    ukan: UKANConfig = field(default_factory=UKANConfig)
    cgan: CGANConfig = field(default_factory=CGANConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    precision: Precision = "float32"
    """Of products of weights in training; all else stays in float32."""
    init: str | None = None
    """Folder of a run whose averaged weights a new one starts with, as far as they fit."""
    run: str | None = None
    """Folder of the run; by default runs/<preset>-<date and time>."""
    resume: bool = False
    """Continue the run (--run, else the newest) from its last checkpoint, exactly."""

    def check(self) -> None:
        """Raises SettingsError on settings that cannot work, before anything is read or built.

        Whether the networks of the method fit the grid says methods.make_method.
        """
        methods = (self.direct, self.motion, self.register, self.r2net, self.ukan, self.cgan)
        rest = (self.optim, self.train, self.mesh, self.cluster)
        for section in (self.data, self.model, self.diffusion, *methods, *rest):
            section.check()
        check_direct(self.method, self.diffusion, self.direct)
        if self.cluster.joins and self.run is None:
            raise SettingsError("a cluster needs --run: one folder that every process sees")
