"""Linear CCA, fitted in a stream and applied to new rows."""

import torch
from torch import Tensor, nn

from xmodal_losses._core import canonical, checks, moments, precision, ranks
from xmodal_losses._core.modules import describe

__all__ = ["CCAProjector"]

CALLER = "CCAProjector"


class CCAProjector(nn.Module):
    """The canonical directions of two modalities: fitted once, applied to any rows.

    Deep CCA trains encoders whose outputs are correlated *after* a linear map of each.
    This is that map. Rows are counted in by :meth:`update`, in chunks of any size, and
    :meth:`fit` makes means and directions of all of them; both are then constants, the
    same for one new row as for a thousand, and in the ``state_dict``.

    Component k of a modality is ``(z − mean) @ projection[:, k]``. At ridge 0, over the
    rows counted in, each has variance 1, component k of one modality has correlation
    ρ_k with component k of the other, and none with any other. In every column of
    ``projection_a`` the entry of largest size is positive, so that signs are no
    accident.

    Args:
        dim_a: Columns of modality *a*, D_a.
        dim_b: Columns of modality *b*, D_b.
        num_components: K in [1, min(D_a, D_b)].
        ridge: As in :func:`~xmodal_losses.functional.dcca`: what the encoders were
            trained with.
        ridge_scale: As there.
        gather: True: :meth:`fit` joins what the ranks of the default process group have
            counted in; or a process group, the same for its ranks. False: the rows are
            here.

    State: buffers, all in float64 and in the ``state_dict``. What :meth:`transform`
    needs: ``mean_a`` ``(D_a,)``, ``mean_b``, ``projection_a`` ``(D_a, K)``,
    ``projection_b`` and ``correlations`` ``(K,)``, all NaN before :meth:`fit`. What has
    been counted in: ``total``, ``squared_total``, ``origin``, ``offset`` and
    ``scatter`` ``(D_a + D_b, D_a + D_b)``.

    Raises:
        TypeError: If an option is of another type.
        ValueError: If an option is out of range.

    Note:
        ``to(torch.float32)`` and the like also round what has been counted in: fit
        first.

    Examples:
        >>> import torch, xmodal_losses as xl
        >>> projector = xl.CCAProjector(2, 2, num_components=1, ridge=0.0)
        >>> z = torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]])
        >>> for chunk in z.split(2):
        ...     projector.update(chunk, chunk @ torch.tensor([[1., 2.], [0., 1.]]))
        >>> projector.fit().correlations.float()
        tensor([1.])
    """

    mean_a: Tensor
    mean_b: Tensor
    projection_a: Tensor
    projection_b: Tensor
    correlations: Tensor
    total: Tensor
    squared_total: Tensor
    origin: Tensor
    offset: Tensor
    scatter: Tensor

    def __init__(
        self,
        dim_a: int,
        dim_b: int,
        *,
        num_components: int,
        ridge: float = 1e-4,
        ridge_scale: canonical.RidgeScale = "absolute",
        gather: bool | ranks.Group = False,
    ) -> None:
        super().__init__()
        checks.count(CALLER, "dim_a", dim_a)
        checks.count(CALLER, "dim_b", dim_b)
        most = min(dim_a, dim_b)
        of = "min(D_a, D_b)"
        checks.count(CALLER, "num_components", num_components, at_most=most, of=of)
        checks.number(CALLER, "ridge", ridge, at_least=0.0)
        checks.option(CALLER, "ridge_scale", ridge_scale, canonical.RIDGE_SCALES)
        ranks.check_module(CALLER, gather, "mean")
        self.dim_a, self.dim_b = dim_a, dim_b
        self.num_components, self.ridge = num_components, ridge
        self.ridge_scale: canonical.RidgeScale = ridge_scale
        self.gather = gather
        fitted = {
            "mean_a": [dim_a],
            "mean_b": [dim_b],
            "projection_a": [dim_a, num_components],
            "projection_b": [dim_b, num_components],
            "correlations": [num_components],
        }
        for name, shape in fitted.items():
            unknown = torch.full(shape, torch.nan, dtype=torch.float64)
            self.register_buffer(name, unknown)
        d = dim_a + dim_b
        counted: dict[str, list[int]] = {
            "total": [],
            "squared_total": [],
            "origin": [1, d],
            "offset": [1, d],
            "scatter": [d, d],
        }
        for name, shape in counted.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def update(self, z_a: Tensor, z_b: Tensor, *, weight: Tensor | None = None) -> None:
        """Count rows in. What is fitted stays as it is until :meth:`fit`.

        Args:
            z_a: Rows of modality *a*, ``(…, N, D_a)``; of leading dimensions, one after
                the other. N may be 0.
            z_b: Their partners, ``(…, N, D_b)``.
            weight: Weights ≥ 0 of the rows, ``(…, N)``. A row of weight 0 is as if it
                were not there.

        Raises:
            TypeError: If an input is of another type.
            ValueError: If shapes do not fit together or to the projector.
        """
        checks.embeddings(CALLER, z_a, z_b, paired=True, same_width=False, min_rows=0)
        self._check_width("z_a", z_a, self.dim_a)
        self._check_width("z_b", z_b, self.dim_b)
        checks.row_weight(CALLER, "weight", weight, z_a)
        z = torch.cat([z.flatten(0, -2).to(self.scatter) for z in (z_a, z_b)], -1)
        w = z.new_ones(z.shape[0])
        if weight is not None:
            w = weight.flatten().to(z)
            z = moments.drop(z, w)
        side = self._side()
        rows = side.update(z, w)
        self.scatter += rows.mT @ rows
        for name in ("total", "squared_total", "origin"):
            getattr(self, name).copy_(getattr(side, name))
        self.offset.copy_(side.mean)

    @torch.no_grad()
    def fit(self) -> "CCAProjector":
        """Make means and directions of all rows counted in so far; return the module.

        With ``gather``, of those of all ranks, which get the same.

        Raises:
            RuntimeError: If fewer than 2 rows have been counted in.
        """
        side, scatter = self._side(), self.scatter
        known = ranks.joined(CALLER, ranks.of_module(CALLER, self.gather))
        if known is not None:
            side.move(known.max(side.lower_origin()))
            between = side.join(*known.sums(list(side.totals())))
            scatter = known.sum(scatter + between.mT @ between)
        over_dof = side.over_dof()
        if not over_dof > 0:
            raise RuntimeError(
                f"{CALLER}: the rows must be at least 2, got fewer. Call update first."
            )
        c, d = scatter * over_dof, self.dim_a
        c_aa, c_bb, c_ab = c[:d, :d], c[d:, d:], c[:d, d:]
        ridge = self.ridge
        if self.ridge_scale == "relative":
            c_aa, c_bb = (canonical.with_relative_ridge(x, ridge) for x in (c_aa, c_bb))
            ridge = 0.0
        rho, a, b = canonical.correlations_and_directions(
            c_aa, c_bb, c_ab, ridge, self.num_components
        )
        largest = a.gather(-2, a.abs().argmax(-2, keepdim=True))
        sign = torch.where(largest < 0, -1.0, 1.0).to(a)
        mean = (side.origin + side.mean).squeeze(-2)
        for buffer, value in (
            (self.mean_a, mean[:d]),
            (self.mean_b, mean[d:]),
            (self.projection_a, sign * a),
            (self.projection_b, sign * b),
            (self.correlations, rho),
        ):
            buffer.copy_(value)
        return self

    def reset(self) -> None:
        """Forget the rows counted in. What is fitted stays."""
        for buffer in (self.total, self.squared_total, self.offset, self.scatter):
            buffer.zero_()
        self.origin.zero_()

    def transform_a(self, z: Tensor) -> Tensor:
        """Return the components of rows of modality *a*, ``(…, K)`` of ``(…, D_a)``.

        In the dtype of the rows, float32 at least; differentiable in them.
        """
        self._check_width("z_a", z, self.dim_a)
        return _project(z, self.mean_a, self.projection_a)

    def transform_b(self, z: Tensor) -> Tensor:
        """Return the components of rows of modality *b*, ``(…, K)`` of ``(…, D_b)``."""
        self._check_width("z_b", z, self.dim_b)
        return _project(z, self.mean_b, self.projection_b)

    def transform(self, z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the components of both."""
        return self.transform_a(z_a), self.transform_b(z_b)

    def forward(self, z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`transform` of both."""
        return self.transform(z_a, z_b)

    def extra_repr(self) -> str:
        """Return the options."""
        return describe(
            self, "dim_a", "dim_b", "num_components", "ridge", "ridge_scale", "gather"
        )

    def _side(self) -> moments.Side:
        """Return what has been counted in; taking more in changes no buffer."""
        side = moments.Side(self.origin)
        side.total, side.squared_total = self.total, self.squared_total
        side.origin, side.mean = self.origin, self.offset
        return side

    def _check_width(self, name: str, z: Tensor, dim: int) -> None:
        checks.tensor(CALLER, name, z, checks.FLOATING, like=self.mean_a)
        if z.ndim < 1 or z.shape[-1] != dim:
            raise ValueError(
                f"{CALLER}: {name} must have {dim} columns, got shape {tuple(z.shape)}."
            )


def _project(z: Tensor, mean: Tensor, projection: Tensor) -> Tensor:
    dtype = precision.compute_dtype(z)
    with precision.no_autocast(z):
        return ((z.to(mean) - mean) @ projection).to(dtype)
