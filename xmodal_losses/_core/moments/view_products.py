"""Rows of several views side by side, and gradients through their products.

All take centres ``(…, 1, D_j)``, scales √(s_j/dof_j) and shares s_j/Σs_j ``(…, N)``,
and rows ``(…, N, D_j)``, V of each: X_j = scale·(Z_j − centre). Only rows get a
gradient; ``factor`` is what it is multiplied by, W of W ranks that make the same of the
products.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from xmodal_losses._core.function import Function
from xmodal_losses._core.parts import parts
from xmodal_losses._core.ranks import Ranks

ROWS = 512  # wide at a time


def blocks(
    centres: Sequence[Tensor], scales: Sequence[Tensor], views: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows of X, and their factors √(s_j/dof_j) ``(…, n, V)``."""
    scale = torch.stack(list(scales), -1)
    for some in parts(scale.shape[-2], ROWS):
        own = scale[..., some, :]
        yield (
            torch.cat(
                [
                    (z[..., some, :].to(c.dtype) - c) * own[..., j : j + 1]
                    for j, (z, c) in enumerate(zip(views, centres, strict=True))
                ],
                -1,
            ),
            own,
        )


def _by_kind(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
    """Return centres, scales, shares and rows, which came one after the other."""
    v = len(tensors) // 4
    return tuple(tensors[i : i + v] for i in range(0, len(tensors), v))


def _rows(grads: Sequence[Tensor], mean: Tensor, z: Tensor) -> Tensor:
    """Return the gradient of rows: that of their blocks, less what the mean takes."""
    whole = torch.cat(list(grads), -2) if grads else torch.zeros_like(mean)
    return (whole - mean).to(z.dtype)


def _handed_on(slope: Tensor, grads: list[Tensor]) -> Sequence[Tensor]:
    """Return gradients; differentiating them again is an error."""
    # Compiled code has no second derivative.
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _Once.call(slope, *grads)  # type: ignore[no-any-return]
    return grads


class Along(Function):
    """With P = XB, P_j = X_jB_j: of X_j, 2(P − λP_j)·slope·B_jᵀ − 2 shrink_j·X_j.

    The difference is formed in the wide dtype, and first: its terms agree to many
    digits where rows are few and the ridge is small. Through the mean goes what rows
    that only one view has leave over.
    """

    @staticmethod
    def forward(value: Tensor, *_: Any) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, *growth, single, ctx.factor = inputs[:7]
        ctx.save_for_backward(*growth, single, *inputs[7:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        directions, values, slope, shrink, single, *rest = ctx.saved_tensors
        centres, scales, shares, views = _by_kind(rest)
        grad = (ctx.factor * grad).to(values.dtype)
        slope = 2 * (grad.unsqueeze(-1) * slope).unsqueeze(-2)
        shrink = 2 * (grad.unsqueeze(-1) * shrink)[..., None, None]
        values = values.unsqueeze(-2)
        widths = [z.shape[-1] for z in views]
        parts = torch.split(directions, widths, -2)
        lost = torch.split(single @ directions * slope, 1, -2)
        grads: list[list[Tensor]] = [[] for _ in views]
        for x, scale in blocks(centres, scales, views):
            p = x @ directions
            for j, (own, b) in enumerate(
                zip(torch.split(x, widths, -1), parts, strict=True)
            ):
                g = ((p - values * (own @ b)) * slope) @ b.mT
                g = g - shrink[..., j, :, :] * own
                grads[j].append(scale[..., j : j + 1] * g)
        out = []
        for j, (z, b, share) in enumerate(zip(views, parts, shares, strict=True)):
            mean = share.unsqueeze(-1) * (lost[j] @ b.mT)
            out.append(_rows(grads[j], mean, z))
        return (*(None,) * (7 + 3 * len(views)), *_handed_on(grad, out))


class Products(Function):
    """XᵀX: of a slope S the gradient is X(S + Sᵀ), and through the mean as above."""

    @staticmethod
    def forward(both: Tensor, *_: Any) -> Tensor:
        return both.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, single, ctx.factor, *rest = inputs
        ctx.save_for_backward(single, *rest)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        single, *rest = ctx.saved_tensors
        centres, scales, shares, views = _by_kind(rest)
        widths = [z.shape[-1] for z in views]
        columns = torch.split(ctx.factor * (slope + slope.mT), widths, -1)
        grads: list[list[Tensor]] = [[] for _ in views]
        for x, scale in blocks(centres, scales, views):
            for j, s in enumerate(columns):
                grads[j].append(scale[..., j : j + 1] * (x @ s))
        out = []
        for j, (z, s, share) in enumerate(zip(views, columns, shares, strict=True)):
            mean = share.unsqueeze(-1) * (single[..., j : j + 1, :] @ s)
            out.append(_rows(grads[j], mean, z))
        return (*(None,) * (3 + 3 * len(views)), *_handed_on(slope, out))


class OneWidth(Function):
    """W = Σ_j X_jᵀX_j and t = ‖Σ_j X_j‖² of views of one width.

    Of slopes S and s the gradient of X_j is X_j(S + Sᵀ) + 2s Σ_i X_i; what goes through
    the mean is of the latter alone.
    """

    @staticmethod
    def forward(within: Tensor, total: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return within.clone(), total.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, _, single, ctx.factor, *rest = inputs
        ctx.save_for_backward(single, *rest)

    @staticmethod
    def backward(ctx: Any, slope: Tensor, grow: Tensor) -> Any:
        single, *rest = ctx.saved_tensors
        centres, scales, shares, views = _by_kind(rest)
        both = ctx.factor * (slope + slope.mT)
        twice = (2 * ctx.factor * grow)[..., None, None]
        grads: list[list[Tensor]] = [[] for _ in views]
        for x, scale in blocks(centres, scales, views):
            side_by_side = x.reshape(*x.shape[:-1], len(views), -1)
            total = twice * side_by_side.sum(-2)
            for j, own in enumerate(side_by_side.unbind(-2)):
                grads[j].append(scale[..., j : j + 1] * (own @ both + total))
        out = []
        for j, (z, share) in enumerate(zip(views, shares, strict=True)):
            mean = share.unsqueeze(-1) * (twice * single[..., j : j + 1, :])
            out.append(_rows(grads[j], mean, z))
        return (*(None,) * (4 + 3 * len(views)), *_handed_on(slope, out))


class FourthMoment(Function):
    """Σ_n Σ_ij ⟨X_in, X_jn⟩²: of X_in the gradient is 4 Σ_j ⟨X_in, X_jn⟩ X_jn.

    The second output is what goes through the means: of all ranks, so that nothing has
    to be told in the backward pass.
    """

    @staticmethod
    def forward(ranks: Ranks | None, _: int, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        centres, scales, _shares, views = _by_kind(tensors)
        total, lost = 0.0 * scales[0].sum(-1), torch.stack(list(centres), -2) * 0.0
        lost = lost.squeeze(-3)
        for x, scale in blocks(centres, scales, views):
            x = x.reshape(*x.shape[:-1], len(views), -1)
            gram = x @ x.mT
            total = total + gram.square().sum((-3, -2, -1))
            lost = lost + (scale.unsqueeze(-1) * (4 * gram @ x)).sum(-3)
        if ranks is not None:
            total, lost = ranks.sums([total, lost])
        return total, lost

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.factor, *rest = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], *rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:
        lost, *rest = ctx.saved_tensors
        centres, scales, shares, views = _by_kind(rest)
        grad = (ctx.factor * grad)[..., None, None]
        slopes = []
        for x, scale in blocks(centres, scales, views):
            x = x.reshape(*x.shape[:-1], len(views), -1)
            slope = scale.unsqueeze(-1) * (4 * (x @ x.mT) @ x)
            slopes.append(grad.unsqueeze(-1) * slope)
        out = []
        for j, (z, share) in enumerate(zip(views, shares, strict=True)):
            mean = share.unsqueeze(-1) * (grad * lost[..., j : j + 1, :])
            out.append(_rows([slope[..., j, :] for slope in slopes], mean, z))
        return (*(None,) * (2 + 3 * len(views)), *_handed_on(grad, out))


class _Once(Function):
    """Hands gradients on; differentiating them again is an error, not a wrong number.

    How the directions and the means turn with the rows is not in the graph.
    """

    @staticmethod
    def forward(_: Tensor, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(grad.clone() for grad in grads)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            "backward: create_graph must be False for a loss of several views, got "
            "True. It has first derivatives only."
        )
