"""What tests ask for beside shapes and options.

Unlike the checks of losses, these look at values: a verdict is worth waiting for the
device, and one from NaN would be wrong.
"""

from torch import Tensor

from xmodal_losses._core import checks


def batches(
    caller: str, z_a: Tensor, z_b: Tensor, *, paired: bool, min_rows: int = 2
) -> None:
    """Require two finite batches, ``(N, D)`` and ``(M, D)``."""
    checks.embeddings(caller, z_a, z_b, paired=paired, min_rows=min_rows)
    if z_a.ndim != 2:
        raise ValueError(
            f"{caller}: z_a must be one batch (N, D), got shape {tuple(z_a.shape)}."
        )
    finite(caller, "z_a and z_b", z_a, z_b)


def finite(caller: str, name: str, *values: Tensor, where: str = "") -> None:
    """Require values without NaN and infinity."""
    if not all(bool(part.isfinite().all()) for part in values):
        remedy = " Scale the samples down." if where else ""
        raise ValueError(
            f"{caller}: {name} must be finite{where}, got NaN or infinity.{remedy}"
        )


def draws(caller: str, name: str, count: int, alpha: float) -> None:
    """Require so many draws that a test can reject, the data being one of them."""
    checks.count(caller, name, count)
    if 1 / (count + 1) > alpha:
        raise ValueError(
            f"{caller}: {name} must be >= 1/alpha - 1, got {count} for alpha={alpha:g}."
            " With fewer the test can never reject."
        )
