"""A training run that can stop and continue."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from tqdm import trange

import xmodal_losses as xl

from .checkpoint import load_checkpoint, save_checkpoint
from .data import Pair
from .evaluate import Protocol, by_features, evaluate
from .model import Describer
from .patches import Augmentation, Bank, Batch, sample_at, sample_batch
from .pretrain import reconstruct
from .processes import Processes, share_batch_norm
from .settings import Settings

__all__ = ["Training"]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for products of bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    processor = Path("/proc/cpuinfo")
    known = ("avx512_bf16", "amx_bf16")
    return processor.exists() and any(x in processor.read_text() for x in known)


class Training:
    """What is trained and what trains it; `progress` is what happened so far.

    Args:
        settings: Steps, batches, optimiser.
        model: Returns (projection, unit embedding) maps; `stride` is its cell size.
        objective: The loss of projections ``(B, P, D)`` of both modalities.
        train: Pairs to learn from, in full resolution.
        validation: Pairs that decide which weights are kept.
        device: Where to compute.
        processes: Who works on the run; the first one validates and saves.
    """

    def __init__(
        self,
        settings: Settings,
        model: nn.Module,
        objective: xl.CrossModalObjective,
        train: Sequence[Pair],
        validation: Sequence[Pair],
        device: torch.device,
        processes: Processes = Processes(),  # noqa: B008  (immutable)
    ) -> None:
        self.settings, self.validation = settings, validation
        small = [pair.downscaled(settings.downscale) for pair in train]
        self.train = Bank.of(small, device)
        self.device, self.processes = device, processes
        self.half = settings.precision == "bfloat16" or (
            settings.precision == "auto" and multiplies_bfloat16(device)
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.model, self.objective = model.to(device), objective.to(device)
        self.trained: nn.Module = self.model
        if processes.several:
            if settings.batch_size < processes.size:
                raise ValueError(
                    f"batch_size must be at least the number of processes, "
                    f"{processes.size}, got {settings.batch_size}"
                )
            share_batch_norm(self.model)
            # Of SwinFuse, some blocks are not run.
            self.trained = DistributedDataParallel(
                self.model, find_unused_parameters=True
            )
        learned = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": learned, "weight_decay": settings.weight_decay},
                # A temperature is no weight that could be too large.
                {"params": [*objective.parameters()], "weight_decay": 0.0},
            ],
            lr=settings.lr,
        )
        self.cooling = (
            xl.CosineSchedule(
                settings.temperature, settings.temperature_end, length=settings.steps
            )
            if settings.temperature_end and settings.contrast == "infonce"
            else None
        )
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings.lr, total_steps=settings.steps
        )
        # What is validated and kept: the mean of the weights over the last steps.
        steps = max(settings.ema * settings.steps, 1.0)
        self.averaged = AveragedModel(
            self.model,
            multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / steps),
            use_buffers=True,
        )
        self.values: list[Tensor] = []  # of the steps since the last `record`
        self.protocol = Protocol()
        self.progress: dict[str, Any] = {
            "settings": self._identity,
            "step": 0,
            "seconds": 0.0,
            "terms": {},
            "gradient_shares": {},
            "validation": {"step": [], "top1": [], "top5": [], "within": []},
        }

    def draw(self) -> Batch:
        """Cut the next batch of crops out of the training pairs; return our part."""
        s = self.settings
        batch = sample_batch(
            self.train,
            batch_size=s.batch_size,
            crop_size=s.crop_size,
            grid=s.grid,
            exclude_radius=s.exclude_px / s.downscale,
            augmentation=Augmentation(warp=s.warp, jitter=s.jitter_px / s.downscale),
            generator=self.generator,
        )
        return self.processes.share(batch)

    def loss(self, batch: Batch, **options: Any) -> xl.ObjectiveValue:
        """Describe a batch and compare; see the objective for its options."""
        # One pass over both modalities: the head's batch statistics are shared, so a
        # difference between the modalities stays visible to the losses.
        images = torch.cat([batch.rgb, batch.ir])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            projection, _ = self.trained.train()(images)
        rgb, ir = projection.float().chunk(2)
        if self.cooling:
            step = self.progress["step"]
            options["tau"] = torch.tensor(self.cooling(step), device=self.device)
        if self.settings.contrast == "infonce":
            options["exclude"] = batch.exclude
        return self.objective(
            sample_at(rgb, batch.points_rgb, self.model.stride),
            sample_at(ir, batch.points_ir, self.model.stride),
            weight=batch.weight,
            step=self.progress["step"],
            **options,
        )

    def step(self) -> None:
        """Do one step."""
        step = self.progress["step"]
        # Shares are looked at now and then: they hold the graph of every term.
        asked = step % self.settings.validate_every == 0
        value = self.loss(self.draw(), gradient_norms=asked)
        self.optimizer.zero_grad()
        value.total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.scheduler.step()
        self.averaged.update_parameters(self.model)

        self.progress["step"] += 1
        # A term of weight 0 is not computed.
        nothing = torch.zeros_like(value.total)
        terms = {
            name: weight * value.terms.get(name, nothing).detach()
            for name, weight in value.weights.items()
        }
        self.names = ("total", *terms)
        self.values.append(torch.stack([value.total.detach(), *terms.values()]))
        if asked:
            for name, share in value.gradient_shares.items():
                record = self.progress["gradient_shares"].setdefault(name, [])
                record.append(share.item())

    def record(self) -> float:
        """Note the terms of the last steps, all at once, and return the last loss.

        Reading a number waits for the device; done in every step, it would idle.
        """
        # What a process returns of a loss is its part; the mean is the loss.
        values = self.processes.mean(torch.stack(self.values)).T.tolist()
        self.values.clear()
        for name, some in zip(self.names, values, strict=True):
            self.progress["terms"].setdefault(name, []).extend(some)
        return values[0][-1]

    def pretrain(self) -> None:
        """Let the backbone learn to reconstruct, if the settings say so."""
        s = self.settings
        if s.pretrain_steps:
            batches = iter(self.draw, None)
            backbone, quiet = self.model.backbone, not self.processes.first
            reconstruct(backbone, batches, s.pretrain_steps, quiet)

    def calibrate(self, batches: int = 8) -> None:
        """Give the untrained model the batch statistics of training crops.

        Without them "before" would be worse than random weights have to be.
        """
        drawn = (self.draw() for _ in range(batches))
        update_bn((torch.cat([batch.rgb, batch.ir]) for batch in drawn), self.model)
        self.averaged.update_parameters(self.model)

    @property
    def describe(self) -> Describer:
        """The averaged model, for whole images."""
        return Describer(self.averaged.module, self.settings.downscale, self.device)

    def measure(self, pairs: Sequence[Pair]) -> dict[str, list[float]]:
        """Evaluate on held-out pairs."""
        return evaluate(by_features(self.describe), pairs, self.protocol)

    def validate(self) -> None:
        """Record retrieval on the validation pairs; remember the best weights."""
        if not self.processes.first:
            return
        result = self.measure(self.validation)
        record = self.progress["validation"]
        record["step"].append(self.progress["step"])
        for name in ("top1", "top5", "within"):
            record[name].append(float(np.mean(result[name])))
        if record["top1"][-1] >= max(record["top1"]):
            state = self.averaged.module.state_dict()
            best = {name: value.cpu().clone() for name, value in state.items()}
            self.progress |= {"best": best, "best_step": self.progress["step"]}

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or no more are worth doing."""
        return self.progress["step"] >= self.settings.steps or self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether `patience` validations have brought nothing; the same for all."""
        s = self.settings
        waited = self.progress["step"] - self.progress.get("best_step", 0)
        out_of_patience = s.patience and waited >= s.patience * s.validate_every
        # The first process validates, and its word is law.
        word = bool(out_of_patience and self.processes.first)
        return self.processes.mean(torch.tensor(float(word))).item() > 0

    def run(self, checkpoint: Path, stop_at: int | None = None) -> None:
        """Train to the end, or to step `stop_at`, and save on the way."""
        s, first = self.settings, self.progress["step"]
        last = min(stop_at or s.steps, s.steps)
        if first and self.exhausted:
            return
        started = time.perf_counter() - self.progress["seconds"]
        if first == 0:
            self.validate()
        quiet = not self.processes.first
        with trange(
            first, last, initial=first, total=last, desc="train", disable=quiet
        ) as bar:
            for _ in bar:
                self.step()
                step = self.progress["step"]
                if step % 10 == 0 or step == last or step % s.validate_every == 0:
                    bar.set_postfix(loss=f"{self.record():.2f}")
                if step % s.validate_every == 0 or step == s.steps:
                    self.validate()
                if step % s.validate_every == 0 or step == last:
                    self.progress["seconds"] = time.perf_counter() - started
                    self.save(checkpoint)
                if step % s.validate_every == 0 and self.exhausted:
                    break

    def keep_best(self) -> None:
        """Go back to the weights that did best on the validation pairs."""
        self.averaged.module.load_state_dict(self.progress["best"])

    @property
    def _identity(self) -> dict[str, Any]:
        pairs = [len(self.train.size), len(self.validation)]
        return asdict(self.settings) | {"pairs": pairs}

    @property
    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "averaged": self.averaged,
            "objective": self.objective,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        if self.processes.first:
            save_checkpoint(path, self._parts, self.generator, self.progress)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint that was written under the same settings."""
        self.progress = load_checkpoint(
            path, self._parts, self.generator, self._identity
        )
