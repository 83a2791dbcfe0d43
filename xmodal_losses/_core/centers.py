"""The centres that classes have in either modality, and which is the nearest other."""

from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import checks, linalg, moments, precision, reduce
from xmodal_losses._core.classes import class_means, class_numbers
from xmodal_losses._core.pairs.tiles import whole
from xmodal_losses._core.parts import parts
from xmodal_losses._core.ranks import GradReduce, Group, Ranks, joined


class Centers(NamedTuple):
    """The centres of the classes that both modalities have.

    There may be more slots than such classes: no GPU is asked how many there are.
    """

    a: Tensor  # (…, K, D), about some origin
    b: Tensor  # (…, K, D)
    shared: Tensor  # (…, K): False for a slot without a class, whatever its centres
    ranks: Ranks | None  # where the rows, or other problems, are

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean ``(…)`` over the classes of a value ``(…, K)``, or 0."""
        count = self.shared.sum(-1).to(value.dtype)
        value = value.masked_fill(~self.shared, 0.0)
        return value.sum(-1) * reduce.inverse(count)

    def reduced(self, value: Tensor, reduction: reduce.Reduction) -> Tensor:
        """Return the values ``(…)`` of all problems, or their mean or sum."""
        return reduce.problems(value, self.shared.any(-1), reduction, self.ranks)


def shared_centers(
    caller: str,
    z_a: Tensor,
    z_b: Tensor,
    labels_a: Tensor,
    labels_b: Tensor,
    *,
    weight_a: Tensor | None,
    weight_b: Tensor | None,
    reduction: reduce.Reduction,
    group: Group | None,
    grad_reduce: GradReduce,
) -> Centers:
    """Check, and return the centres; of rows on several ranks, all have all of them."""
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
    ranks = joined(caller, group, grad_reduce)
    least = 1 if ranks is None else 0
    checks.embeddings(caller, z_a, z_b, paired=False, min_rows=least)
    checks.row_ids(caller, "labels_a", labels_a, z_a, required=True)
    checks.row_ids(caller, "labels_b", labels_b, z_b, required=True)
    checks.row_weight(caller, "weight_a", weight_a, z_a)
    checks.row_weight(caller, "weight_b", weight_b, z_b)

    dtype = precision.compute_dtype(z_a, z_b)
    rows = [
        moments.drop(z_a.to(dtype), weight_a),
        moments.drop(z_b.to(dtype), weight_b),
    ]
    labels, weights = [labels_a.long(), labels_b.long()], [weight_a, weight_b]
    if ranks is not None and z_a.ndim == 2:
        counts = ranks.agree_on_batches(caller, z_a, z_b, weight_a, weight_b, {})
        for i, count in enumerate(counts):
            weight = weights[i]
            rows[i] = ranks.rows(rows[i], count)
            labels[i] = torch.cat(ranks.gather(labels[i], count, 0))
            if weight is not None:
                weights[i] = torch.cat(ranks.gather(weight, count, 0))

    sizes = [z.shape[-2] for z in rows]
    numbers = torch.split(class_numbers(torch.cat(labels, -1)), sizes, -1)
    # Of clouds far from the origin none of their distance is lost.
    middle = torch.cat(rows, -2).detach().mean(-2, keepdim=True)
    # One slot even where all ranks together have no rows.
    (center_a, total_a), (center_b, total_b) = (
        class_means(z - middle, number, weight, max(sum(sizes), 1))
        for z, number, weight in zip(rows, numbers, weights, strict=True)
    )
    shared = (total_a > 0) & (total_b > 0)
    # The classes that count come first, and are no more than either has rows.
    slots = _slots(shared, max(min(sizes), 1))
    order = shared.to(torch.uint8).sort(-1, descending=True).indices[..., :slots]
    of_rows = order.unsqueeze(-1).expand(*order.shape, rows[0].shape[-1])
    return Centers(
        center_a.gather(-2, of_rows),
        center_b.gather(-2, of_rows),
        shared.gather(-1, order),
        ranks,
    )


def _slots(shared: Tensor, most: int) -> int:
    """Return how many slots hold all classes that count; ``most`` are enough.

    Where rows are many of a class, that is far fewer. Only a CPU is asked, which has
    nothing to wait for.
    """
    if shared.device.type != "cpu" or torch.compiler.is_compiling():
        return most
    try:
        return max(int(shared.sum(-1).amax()), 1)
    except RuntimeError:  # of vmap, where no number can be looked at; of no problems
        return most


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Return ‖x − y‖ along the last dimension, with gradient 0 where they coincide."""
    return linalg.sqrt((x - y).square().sum(-1))


def nearest_other(centers: Tensor, numbers: Tensor, valid: Tensor) -> Tensor:
    """Return the nearest centre of another class, for each of ``(…, K, D)``.

    It is one of several at one distance, and any where there is no other.

    Args:
        centers: About some origin near them.
        numbers: ``(K,)``, equal for those of one class.
        valid: ``(…, K)``: False for what is no centre.
    """
    # Which one it is has no derivative. To find it, the distances may come from inner
    # products, in a wide dtype; its own distance is then made of differences.
    z = centers.detach()
    z = z.to(precision.sum_dtype(z))
    half = z.square().sum(-1).unsqueeze(-2) / 2
    half = half.masked_fill(~valid.unsqueeze(-2), torch.inf)
    n, edge = z.shape[-2], whole(z, None)
    size = n if n <= edge else max(1, edge**2 // n)  # rows of a strip
    found = []
    with precision.no_autocast(z):
        for some in parts(n, size):
            # ½‖x − y‖² − ½‖x‖²
            score = half - z[..., some, :] @ z.mT
            same = numbers[some].unsqueeze(-1) == numbers
            score = score.masked_fill(same, torch.inf)
            found.append(score.argmin(-1))
    index = torch.cat(found, -1)
    return centers.gather(-2, index.unsqueeze(-1).expand(centers.shape))
