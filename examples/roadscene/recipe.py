"""The objective: InfoNCE + λ_DA · (MMD | CORAL) + λ_RR · (Barlow Twins | VICReg).

For comparison, Deep CCA can take the place of InfoNCE, and any term can be left out.
"""

import torch.distributed as dist
from torch import Tensor, nn

import xmodal_losses as xl

from .settings import Settings

__all__ = ["Cloud", "recipe"]

DISTRIBUTIONS = {"mmd": xl.MMDLoss, "coral": xl.CORALLoss}
REDUNDANCIES = {"barlow": xl.BarlowTwinsLoss, "vicreg": xl.VICRegLoss}


class CoolingContrast(nn.Module):
    """InfoNCE whose temperature is given with every batch, by a schedule."""

    def __init__(self, negatives: str, gather: bool) -> None:
        super().__init__()
        self.negatives, self.group = negatives, dist.group.WORLD if gather else None

    def forward(
        self, rgb: Tensor, ir: Tensor, *, exclude: Tensor, weight: Tensor, tau: Tensor
    ) -> Tensor:
        """Compare projections ``(B, P, D)`` at the temperature `tau`, a scalar."""
        return xl.functional.info_nce(
            rgb,
            ir,
            temperature=tau,
            negatives=self.negatives,
            exclude=exclude,
            weight=weight,
            group=self.group,
        )


class Cloud(nn.Module):
    """A loss that sees the points of all images as one cloud.

    Moments of the 128 dimensions want more rows than one image has points.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss


class UnpairedCloud(Cloud):
    """Of a loss that does not ask which row belongs to which."""

    def forward(self, rgb: Tensor, ir: Tensor, *, weight: Tensor) -> Tensor:
        """Compare projections ``(B, P, D)`` with weights ``(B, P)``."""
        weight = weight.flatten()
        rgb, ir = rgb.flatten(0, 1), ir.flatten(0, 1)
        return self.loss(rgb, ir, weight_a=weight, weight_b=weight)


class PairedCloud(Cloud):
    """Of a loss whose rows are pairs."""

    def forward(self, rgb: Tensor, ir: Tensor, *, weight: Tensor) -> Tensor:
        """Compare projections ``(B, P, D)`` with weights ``(B, P)``."""
        rgb, ir = rgb.flatten(0, 1), ir.flatten(0, 1)
        return self.loss(rgb, ir, weight=weight.flatten())


def recipe(settings: Settings, gather: bool = False) -> xl.CrossModalObjective:
    """Return the sum of terms, of projections ``(B, P, D)`` of points in B images.

    InfoNCE compares directions and brings the rows to unit length itself. The others
    take the projection as it is, by default: of unit vectors, CORAL is at most 2/(4D²),
    and no weight in use would make it matter.
    """
    s = settings

    def weight(final: float) -> float | xl.LinearSchedule:
        rise = s.weight_warmup * s.steps
        return xl.LinearSchedule(0.0, final, length=rise) if rise else final

    if s.contrast == "dcca":
        terms = {"DCCA": xl.Term(PairedCloud(xl.DCCALoss(gather=gather)))}
    else:
        contrast: nn.Module = (
            CoolingContrast(s.negatives, gather)
            if s.temperature_end
            else xl.InfoNCELoss(
                temperature=s.temperature,
                learn_temperature=s.learn_temperature,
                negatives=s.negatives,
                gather=gather,
            )
        )
        terms = {"InfoNCE": xl.Term(contrast, input="embedding")}
    for kind, name, final in (
        (DISTRIBUTIONS, s.distribution, s.distribution_weight),
        (REDUNDANCIES, s.redundancy, s.redundancy_weight),
    ):
        if name != "none":
            loss = kind[name](gather=gather)
            cloud = UnpairedCloud if kind is DISTRIBUTIONS else PairedCloud
            terms[name] = xl.Term(cloud(loss), weight=weight(final), input=s.term_input)
    return xl.CrossModalObjective(terms)
