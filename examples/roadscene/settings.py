"""The settings of a run, and their flags."""

import argparse
from dataclasses import dataclass, fields, replace

__all__ = ["PRESETS", "Settings", "add_flags", "settings_from"]


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result. Each field is a flag of the same name."""

    seed: int = 0
    steps: int = 2000
    # Images are averaged down by `downscale`. A step takes `batch_size` pairs, cuts
    # `crop_size` pixels out of what is left, and compares `grid`² points of each. The
    # entries of the infrared crop's linear map are off by up to `warp`.
    downscale: int = 2
    batch_size: int = 2
    crop_size: int = 112
    grid: int = 18
    warp: float = 0.25
    # What is trained: SwinFuse, its blocks run per stage, the stage whose tokens are
    # used, its stochastic depth, and whether activations are computed again rather than
    # kept; or the convolutional control. The head makes cells of `stride` pixels, and
    # `context` layers of it look around, three cells each.
    # `finetune`: "full", or the "head" alone on a backbone that stays as it is.
    backbone: str = "swinfuse"
    blocks_run: int = 1
    stage: str = "last"
    drop_path: float = 0.0
    checkpointing: bool = False
    head: str = "conv"
    context: int = 4
    stride: int = 2
    finetune: str = "full"
    # Steps in which the backbone learns to reconstruct both images, before all else.
    pretrain_steps: int = 0
    # The objective: a contrast, a distribution term and a redundancy term, of weights
    # λ_DA (`distribution_weight`) and λ_RR (`redundancy_weight`), which rise from 0 in
    # the first `weight_warmup` of all steps. τ is learned, or goes to `temperature_end`
    # along half a cosine, or stays.
    contrast: str = "infonce"
    temperature: float = 0.07
    temperature_end: float = 0.0  # 0: stays
    learn_temperature: bool = False
    negatives: str = "cross"
    exclude_px: float = 4.0  # full-resolution pixels; pairs are aligned to 2 or so
    jitter_px: float = 0.0  # how far a positive may be off, at random, in these
    distribution: str = "mmd"
    distribution_weight: float = 0.05
    redundancy: str = "barlow"
    redundancy_weight: float = 0.01
    weight_warmup: float = 0.0
    term_input: str = "projection"  # of the terms beside the contrast
    # AdamW, one cycle up to `lr` and down. What is validated and kept is a running
    # mean of the weights, over that part of all steps.
    lr: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.02
    clip: float = 1.0  # largest norm of the gradient
    # Of the network; losses are computed in float32. "auto": bfloat16 where the device
    # multiplies it fast.
    precision: str = "auto"
    # Validate, and save, every so many steps; stop after `patience` validations that
    # bring nothing (0: never). 0 pairs = all.
    validate_every: int = 250
    patience: int = 0
    validation_pairs: int = 0
    test_pairs: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "downscale", "batch_size", "grid", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        if self.crop_size < 21:
            raise ValueError(f"crop_size must be at least 21, got {self.crop_size}")
        if self.learn_temperature and self.temperature_end:
            raise ValueError("temperature_end must be 0 if the temperature is learned")
        if self.backbone == "cnn" and self.pretrain_steps:
            raise ValueError("pretrain_steps must be 0 for the backbone cnn")


PRESETS = {
    "full": Settings(),
    "quick": Settings(steps=200, validate_every=100),
    "smoke": Settings(
        steps=5, batch_size=2, validate_every=5, validation_pairs=2, test_pairs=3
    ),
}

CHOICES = {
    "backbone": ("swinfuse", "cnn"),
    "stride": (2, 4),
    "blocks_run": (1, 2, 3, 4, 5, 6),
    "stage": ("last", "penultimate"),
    "head": ("conv", "patch"),
    "finetune": ("full", "head"),
    "precision": ("auto", "float32", "bfloat16"),
    "contrast": ("infonce", "dcca"),
    "negatives": ("cross", "group", "all"),
    "term_input": ("projection", "embedding"),
    "distribution": ("mmd", "coral", "none"),
    "redundancy": ("barlow", "vicreg", "none"),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the presets, and a flag per field."""
    preset = parser.add_mutually_exclusive_group()
    for name, about in (
        ("quick", "a short run: 5 minutes on two CPU cores"),
        ("smoke", "five steps and a few pairs: does everything run?"),
    ):
        preset.add_argument(
            f"--{name}", dest="preset", action="store_const", const=name, help=about
        )
    parser.set_defaults(preset="full")
    group = parser.add_argument_group("settings, overriding the preset")
    for field in fields(Settings):
        flag, about = f"--{field.name.replace('_', '-')}", f"default {field.default}"
        if isinstance(field.default, bool):
            switch = argparse.BooleanOptionalAction
            group.add_argument(flag, action=switch, default=None, help=about)
        else:
            group.add_argument(
                flag,
                type=type(field.default),
                choices=CHOICES.get(field.name),
                help=about,
            )


def settings_from(args: argparse.Namespace) -> Settings:
    """Apply the flags that were given to the chosen preset."""
    given = {field.name: getattr(args, field.name) for field in fields(Settings)}
    return replace(
        PRESETS[args.preset],
        **{name: value for name, value in given.items() if value is not None},
    )
