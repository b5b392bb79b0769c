"""The training loop.

One optimiser step is a pure function of (parameters, optimiser state, seed, step number), so a run
that was stopped at any checkpoint continues to the same bytes as one that was not.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pfm_edge.config import Config, TrainingConfig
from pfm_edge.data import ClassificationData
from pfm_edge.errors import RunError
from pfm_edge.evaluation import EpochMetrics, epoch_metrics
from pfm_edge.model import PromptedViT, add_lora, create_backbone
from pfm_edge.training._checkpoint import (
    load_checkpoint,
    load_trained,
    read_score,
    save_checkpoint,
)
from pfm_edge.training._lock import in_use
from pfm_edge.training._loss import LossTerms, draw_banks, forgettable_loss
from pfm_edge.training._metrics import MetricsLog
from pfm_edge.training._randomness import derive_seed, epoch_order, generator
from pfm_edge.training._run import Run
from pfm_edge.training._schedule import Schedule
from pfm_edge.training._selection import Selection
from pfm_edge_runtime.errors import ConfigError
from pfm_edge_runtime.store import write_atomic

__all__ = ["Progress", "TrainingEvent", "load_model", "train", "training_device"]

_LOG_EVERY_STEPS = 10


@dataclass(frozen=True, slots=True)
class TrainingEvent:
    """What a progress hook is told: after every step, and after every evaluation."""

    step: int
    total_steps: int
    loss: float
    metrics: EpochMetrics | None = None


Progress = Callable[[TrainingEvent], None]


def _silent(event: TrainingEvent) -> None:
    """Show nothing."""


def train(
    run: Run,
    data: ClassificationData,
    *,
    progress: Progress = _silent,
) -> int:
    """Train a run from its newest checkpoint, or from the start where it has none.

    Returns:
        The number of optimiser steps that the run now has.

    Raises:
        ConfigError: no such device, or a backbone that cannot be made.
        RunError: a damaged checkpoint, classes that were forgotten or that the data does not
            have, or a loss that is no longer finite.
        StorageError: the disk refused; the previous checkpoint is intact.
    """
    with torch.random.fork_rng(), in_use(run.path):
        loop = _Loop.prepare(run, data)
        with MetricsLog(run.path, first_step=loop.step) as log:
            loop.run_to_end(log, progress)
    return loop.step


def load_model(run: Run) -> PromptedViT:
    """Build a run's selected model: float32, on the CPU, in eval mode.

    Raises:
        RunError: the run has no checkpoint, or one of another configuration, or holds a class
            that was forgotten.
    """
    run.require_current()
    if not run.selected.exists():
        raise RunError(f"{run.path}: no checkpoint; train the run first")
    model = _build(run)
    load_trained(run.selected, model, run.class_ids)
    return model.eval()


def _build(run: Run) -> PromptedViT:
    config = run.config
    backbone_config = config.backbone
    if run.checkpoint.exists():  # the run holds every weight: what it started from may be gone
        frozen = run.frozen_backbone if config.adaptation.kind == "lora" else None
        update = {"weights": frozen, "pretrained": False}
        backbone_config = backbone_config.model_copy(update=update)
    torch.manual_seed(derive_seed(config.seed, "initialisation", 0))
    backbone = create_backbone(backbone_config)
    if config.adaptation.kind == "lora":
        if not run.checkpoint.exists():
            state = {name: t.contiguous() for name, t in backbone.state_dict().items()}
            write_atomic(run.frozen_backbone, safetensors.torch.save(state))
        lora = config.adaptation
        add_lora(backbone, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout)
    return PromptedViT(backbone, config.attention, len(run.classes))


def training_device(name: str) -> torch.device:
    """Return the device that a configuration names.

    Raises:
        ConfigError: it names CUDA, and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device: no CUDA device here; use 'cpu' or 'auto'")
    return torch.device(name)


def _precision(config: TrainingConfig, device: torch.device) -> torch.dtype:
    wanted = config.precision
    if wanted == "auto":
        wanted = "bfloat16" if device.type == "cuda" else "float32"
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def _optimizer(model: PromptedViT, config: Config) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        trained, lr=config.training.learning_rate, weight_decay=config.training.weight_decay
    )


@dataclass(slots=True)
class _Loop:
    """The state of one training process."""

    run: Run
    data: ClassificationData
    model: PromptedViT
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    device: torch.device
    precision: torch.dtype
    steps_per_epoch: int
    step: int = 0
    window: list[LossTerms] = field(default_factory=list)

    @classmethod
    def prepare(cls, run: Run, data: ClassificationData) -> "_Loop":
        run.require_current(least=2)
        if len(data.labels) != len(run.classes):
            raise RunError(
                f"{run.path}: has {len(run.classes)} classes, the data {len(data.labels)}; "
                "train on the run's"
            )
        training = run.config.training
        device = training_device(training.device)
        model = _build(run).to(device)
        optimizer = _optimizer(model, run.config)
        per_epoch = -(-len(data.train) // training.batch_size)
        schedule = Schedule(
            peak=training.learning_rate,
            warmup_steps=round(training.warmup_epochs * per_epoch),
            total_steps=training.epochs * per_epoch,
            shape=training.schedule,
        )
        loop = cls(
            run=run,
            data=data,
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            device=device,
            precision=_precision(training, device),
            steps_per_epoch=per_epoch,
        )
        if run.checkpoint.exists():
            loop.step = load_checkpoint(run.checkpoint, model, optimizer, run.class_ids)
        else:  # the prompts exist nowhere else: keep them before anything depends on them
            loop.save()
        return loop

    @property
    def last_step(self) -> int:
        limit = self.run.config.training.max_steps
        total = self.schedule.total_steps
        return total if limit is None else min(limit, total)

    def run_to_end(self, log: MetricsLog, progress: Progress) -> None:
        every = self.run.config.training.checkpoint_every_steps
        started = perf_counter()
        for batch in self._batches():
            terms = self._step(batch)
            self._log_steps(log, terms)
            progress(TrainingEvent(self.step, self.last_step, float(terms.total)))
            if self.step % self.steps_per_epoch == 0 or self.step == self.last_step:
                self._end_epoch(log, progress, terms, perf_counter() - started)
                started = perf_counter()
            elif every is not None and self.step % every == 0:
                self.save()

    def save(self) -> None:
        save_checkpoint(
            self.run.checkpoint, self.model, self.optimizer, self.step, self.run.class_ids
        )

    def _batches(self) -> Iterator[Tensor]:
        size = self.run.config.training.batch_size
        while self.step < self.last_step:
            epoch, offset = divmod(self.step, self.steps_per_epoch)
            order = epoch_order(self.run.config.seed, epoch, len(self.data.train))
            yield order[offset * size : (offset + 1) * size]

    def _step(self, batch: Tensor) -> LossTerms:
        seed, step = self.run.config.seed, self.step
        torch.manual_seed(derive_seed(seed, "dropout", step))
        labels = self.data.train.labels[batch]
        draws = generator(seed, "banks", step)
        classes = self.model.num_classes
        mixed = draw_banks(labels, classes, with_own=True, generator=draws)
        wrong = draw_banks(labels, classes, with_own=False, generator=draws)
        images = self.data.train.images(batch).to(self.device)
        self.model.train()
        with self._autocast():
            terms = forgettable_loss(
                self.model,
                images,
                labels.to(self.device),
                mixed.to(self.device),
                wrong.to(self.device),
            )
        if not bool(torch.isfinite(terms.total)):
            raise RunError(
                f"{self.run.path}: the loss is not finite at step {step}; lower "
                "training.learning_rate, or resume from the checkpoint with another precision"
            )
        self._update(terms.total)
        return LossTerms(terms.cross_entropy.detach(), terms.uniformity.detach())

    def _update(self, loss: Tensor) -> None:
        training = self.run.config.training
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if training.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.clip_norm)
        self.optimizer.step()
        self.step += 1

    def _autocast(self) -> Any:
        if self.precision is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def _log_steps(self, log: MetricsLog, terms: LossTerms) -> None:
        self.window.append(terms)
        if self.step % _LOG_EVERY_STEPS == 0:
            log.write("train", self.step, self._window_means())

    def _window_means(self) -> Mapping[str, float]:
        entropy = torch.stack([terms.cross_entropy for terms in self.window]).mean()
        uniformity = torch.stack([terms.uniformity for terms in self.window]).mean()
        self.window.clear()
        return {
            "loss": float(entropy + uniformity),
            "cross_entropy": float(entropy),
            "uniformity": float(uniformity),
            "learning_rate": self.schedule.at(self.step - 1),
        }

    def _end_epoch(
        self, log: MetricsLog, progress: Progress, terms: LossTerms, seconds: float
    ) -> None:
        epoch = -(-self.step // self.steps_per_epoch)
        whole = self.step % self.steps_per_epoch == 0
        due = whole and epoch % self.run.config.training.evaluate_every_epochs == 0
        if due or self.step == self.last_step:
            metrics = epoch_metrics(self.model, self.data.test, seed=self.run.config.seed)
            record = {
                "epoch": epoch,
                "seconds": seconds,
                **metrics.as_dict(self.run.class_ids),
            }
            # A run that stops within an epoch says where it is; only whole epochs compete.
            kind, score = ("epoch", self._select(epoch)) if whole else ("stop", {})
            log.write(kind, self.step, record | score)
            progress(TrainingEvent(self.step, self.last_step, float(terms.total), metrics))
        self.save()

    def _select(self, epoch: int) -> dict[str, float]:
        """Keep the model if it competes and is the best so far; returns its score, for the log."""
        training = self.run.config.training
        if training.select != "best" or 3 * epoch <= 2 * training.epochs:
            return {}
        selection = Selection.of(self.data.train, seed=self.run.config.seed)
        score = selection.score(self.model)
        if score > read_score(self.run.best):
            save_checkpoint(self.run.best, self.model, None, self.step, self.run.class_ids, score)
        return {"selection_score": score}
