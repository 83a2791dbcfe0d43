"""The objective: InfoNCE + λ_DA · (MMD | CORAL) + λ_RR · (Barlow Twins | VICReg)."""

from torch import Tensor, nn

import xmodal_losses as xl

from .settings import Settings

__all__ = ["Cloud", "recipe"]

DISTRIBUTIONS = {"mmd": xl.MMDLoss, "coral": xl.CORALLoss}
REDUNDANCIES = {"barlow": xl.BarlowTwinsLoss, "vicreg": xl.VICRegLoss}


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
    take the projection as it is: of unit vectors, CORAL is at most 2/(4D²), and no
    weight in use would make it matter.
    """
    s = settings
    contrast = xl.InfoNCELoss(
        temperature=s.temperature, negatives=s.negatives, gather=gather
    )
    terms = {"InfoNCE": xl.Term(contrast, input="embedding")}
    if s.distribution != "none":
        loss: nn.Module = DISTRIBUTIONS[s.distribution](gather=gather)
        terms[s.distribution] = xl.Term(
            UnpairedCloud(loss), weight=s.distribution_weight
        )
    if s.redundancy != "none":
        loss = REDUNDANCIES[s.redundancy](gather=gather)
        terms[s.redundancy] = xl.Term(PairedCloud(loss), weight=s.redundancy_weight)
    return xl.CrossModalObjective(terms)
