"""Deep CORAL (Sun & Saenko, 1607.01719), Eq. 1-3, a mean term, scale-free forms."""

from .problems import covariance, reduce_problems


def coral_terms(
    z_a, z_b, *, scale="published", weight_a=None, weight_b=None, reduction="mean"
):
    """Return the covariance term and the mean term."""

    def covariances(a, b, w_a, w_b):
        c_a, c_b = covariance(a, w_a), covariance(b, w_b)
        gap = ((c_a - c_b) ** 2).sum()
        if scale == "published":
            return gap / (4 * a.shape[1] ** 2)
        size = (c_a**2).sum() + (c_b**2).sum()
        return gap / size if size != 0 else 0 * gap

    def means(a, b, w_a, w_b):
        gap = ((w_a @ a / w_a.sum() - w_b @ b / w_b.sum()) ** 2).sum()
        if scale == "published":
            return gap / a.shape[1]
        # Of a mixture of both in equal parts: between the means, and in all.
        within = (covariance(a, w_a).trace() + covariance(b, w_b).trace()) / 2
        between = gap / 4
        return between / (between + within) if between + within != 0 else 0 * gap

    return tuple(
        reduce_problems(term, [z_a, z_b], [weight_a, weight_b], reduction)
        for term in (covariances, means)
    )


def coral(
    z_a,
    z_b,
    *,
    mean_weight=0.0,
    scale="published",
    weight_a=None,
    weight_b=None,
    reduction="mean",
):
    """Return ‖C_a - C_b‖²_F/(4D²) + mean_weight ‖μ_a - μ_b‖²/D, or the relative one."""
    covariances, means = coral_terms(
        z_a,
        z_b,
        scale=scale,
        weight_a=weight_a,
        weight_b=weight_b,
        reduction=reduction,
    )
    return covariances + mean_weight * means
