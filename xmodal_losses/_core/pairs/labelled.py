"""Labelled rows of both modalities in one batch: positives are of the same class."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal_losses._core import checks, moments, precision, reduce
from xmodal_losses._core.classes import class_numbers, class_totals, others_of_class
from xmodal_losses._core.linalg import unit
from xmodal_losses._core.pairs.across_ranks import EXCHANGES, Exchange, meet
from xmodal_losses._core.pairs.contrast import Contrast
from xmodal_losses._core.ranks import GradReduce, Group, joined


class Labelled(NamedTuple):
    """The rows of a and b, ``(…, N + M, D)``, each against all others.

    Or, if the contrast has positions, against those of the other modality alone: these
    tell which it is.
    """

    contrast: Contrast  # of the rows with themselves
    numbers: Tensor  # (…, N + M): equal for equal labels, on whichever rank
    all_numbers: Tensor  # of the rows of all ranks
    positives: Tensor  # (…, N + M): how many other rows of its class a row has
    weight: Tensor  # (…, N + M): 0 for a row without positives

    def positive_sums(self) -> Tensor:
        """Return the sum of each row's logits with its positives."""
        contrast = self.contrast
        across = () if contrast.walk is None else contrast.walk[:2]
        if contrast.positions is None:
            others = others_of_class(contrast.y, self.all_numbers, *across)
            return (contrast.x * others).sum(-1)
        total = torch.zeros_like(contrast.x)
        for which in (0, 1):  # the sums of either modality, for rows of the other
            of_this = contrast.positions == which
            rows = contrast.y.masked_fill(~of_this, 0.0)
            sums = others_of_class(rows, self.all_numbers, *across)
            total = total + sums.masked_fill(of_this, 0.0)
        return (contrast.x * total).sum(-1)

    def of_class(self, same: bool) -> Contrast:
        """Return each row against the others of its class, or of any other class."""
        contrast = self.contrast.replaced(ids=self.numbers, only=same)
        if same and contrast.positions is not None:
            # Pairs of one class count, but for those of one modality.
            return contrast.replaced(radius=None, kept_radius=0.0)
        return contrast

    def mean(self, total: Tensor) -> Tensor:
        """Return a total over the positives, over their number."""
        return total * reduce.inverse(self.positives)

    def reduced(self, loss: Tensor, reduction: reduce.Reduction) -> Tensor:
        """Return the row losses, or their weighted mean or sum over these rows."""
        loss = loss.masked_fill(self.weight == 0, 0.0)
        return reduce.rows(loss, self.weight, reduction, self.contrast.ranks)


def labelled(
    caller: str,
    z_a: Tensor,
    z_b: Tensor,
    labels_a: Tensor,
    labels_b: Tensor,
    *,
    temperature: float | Tensor,
    intra_modal: bool,
    normalize: bool,
    weight_a: Tensor | None,
    weight_b: Tensor | None,
    reduction: reduce.Reduction,
    chunk_size: int | None,
    group: Group | None,
    grad_reduce: GradReduce,
    exchange: Exchange | None,
) -> Labelled:
    """Check, and return the rows of both modalities with what is known of them."""
    check_labelled(caller, intra_modal, normalize, reduction, chunk_size)
    checks.positive_scalar(caller, "temperature", temperature)
    ranks = joined(caller, group, grad_reduce, exchange, EXCHANGES)
    least = 1 if ranks is None else 0
    checks.embeddings(caller, z_a, z_b, paired=False, min_rows=least)
    checks.row_ids(caller, "labels_a", labels_a, z_a, required=True)
    checks.row_ids(caller, "labels_b", labels_b, z_b, required=True)
    checks.row_weight(caller, "weight_a", weight_a, z_a)
    checks.row_weight(caller, "weight_b", weight_b, z_b)

    dtype = precision.compute_dtype(z_a, z_b)
    labels = torch.cat((labels_a.long(), labels_b.long()), -1)
    weights = [
        torch.ones_like(y, dtype=dtype) if weight is None else weight.to(dtype)
        for weight, y in ((weight_a, labels_a), (weight_b, labels_b))
    ]
    weight = torch.cat(weights, -1)
    some = weight_a is not None or weight_b is not None
    rows = torch.cat((z_a.to(dtype), z_b.to(dtype)), -2)
    rows = moments.drop(rows, weight if some else None)
    walk = None
    if ranks is not None and z_a.ndim == 2:
        told = {"weight_a": weight_a, "weight_b": weight_b}
        walk = meet(caller, ranks, exchange, rows, z_b, "group", told)

    valid = weight != 0
    modality = torch.cat((torch.zeros_like(labels_a), torch.ones_like(labels_b)), -1)
    everyone, present, modalities = labels, valid, modality
    start, size = 0, labels.shape[-1]
    if walk is not None:
        everyone, present, modalities = (
            torch.cat(walk.ranks.gather(some, walk.counts, 0))
            for some in (labels, valid, modality)
        )
        start = sum(walk.counts[: walk.ranks.rank])
    all_numbers = class_numbers(everyone)
    numbers = all_numbers.narrow(-1, start, size)

    def others(some: Tensor) -> Tensor:
        """Return how many there are in the class of each row."""
        totals = class_totals(some.to(dtype), all_numbers, all_numbers.shape[-1])
        return totals.gather(-1, numbers)

    if intra_modal:
        positives = others(present) - 1
    else:
        of_a, of_b = (others(present & (modalities == which)) for which in (0, 1))
        positives = torch.where(modality == 0, of_b, of_a)

    with precision.no_autocast(rows):
        if normalize:
            rows = unit(rows, -1)
        bound = math.inf
        if isinstance(temperature, Tensor):
            temperature = temperature.to(dtype)
        elif normalize:
            bound = 1 / temperature
        contrast = Contrast(
            x=rows / temperature,
            y=rows,
            both=False,
            positions=None if intra_modal else modality.to(dtype).unsqueeze(-1),
            valid=valid if some else None,
            narrow=precision.narrow_products(z_a, z_b),
            bound=bound,
            chunk_size=chunk_size,
            ranks=ranks,
            walk=walk,
        )
    weight = weight.masked_fill(positives <= 0, 0.0)
    return Labelled(contrast, numbers, all_numbers, positives, weight)


def check_labelled(
    caller: str,
    intra_modal: object,
    normalize: object,
    reduction: object,
    chunk_size: object,
) -> None:
    """Check what is no tensor."""
    checks.flag(caller, "intra_modal", intra_modal)
    checks.flag(caller, "normalize", normalize)
    checks.option(caller, "reduction", reduction, reduce.REDUCTIONS)
    if chunk_size is not None:
        checks.count(caller, "chunk_size", chunk_size)
