"""Deep CORAL (Sun & Saenko, 1607.01719), Eq. 1-3, and an optional mean term."""

from .problems import covariance, reduce_problems


def coral_terms(z_a, z_b, *, weight_a=None, weight_b=None, reduction="mean"):
    """Return the covariance term and the mean term."""

    def covariances(a, b, w_a, w_b):
        difference = covariance(a, w_a) - covariance(b, w_b)
        return (difference * difference).sum() / (4 * a.shape[1] ** 2)

    def means(a, b, w_a, w_b):
        difference = w_a @ a / w_a.sum() - w_b @ b / w_b.sum()
        return (difference * difference).sum() / a.shape[1]

    return tuple(
        reduce_problems(term, [z_a, z_b], [weight_a, weight_b], reduction)
        for term in (covariances, means)
    )


def coral(z_a, z_b, *, mean_weight=0.0, weight_a=None, weight_b=None, reduction="mean"):
    """Return ‖C_a - C_b‖²_F/(4D²) + mean_weight ‖μ_a - μ_b‖²/D."""
    covariances, means = coral_terms(
        z_a, z_b, weight_a=weight_a, weight_b=weight_b, reduction=reduction
    )
    return covariances + mean_weight * means
