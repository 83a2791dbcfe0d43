"""Noise regularisation (He et al., 2024), and its form corrected for chance."""

import numpy as np

from .dcca import canonical_correlations


def noise_regularization(
    z,
    z_noise,
    x=None,
    noise=None,
    *,
    chance_corrected=False,
    ridge=1e-4,
    ridge_scale="absolute",
    weight=None,
    reduction="mean",
):
    """Return |Corr(f(X), f(A)) - Corr(X, A)|."""
    lead = z.shape[:-2]
    values, counted = np.zeros(lead), np.zeros(lead, dtype=bool)

    def correlation(a, b, w):
        a, b, w = a[w > 0], b[w > 0], w[w > 0]
        if len(w) < 2:
            return 0.0
        ridges = [ridge, ridge]
        if ridge_scale == "relative":
            ridges = [
                ridge * np.trace(np.atleast_2d(np.cov(v.T, aweights=w))) / v.shape[1]
                for v in (a, b)
            ]
        rho = canonical_correlations(a, b, w, *ridges)
        if not chance_corrected:
            return rho.sum()
        chance = a.shape[1] * b.shape[1] / (w.sum() ** 2 / (w**2).sum() - 1)
        return (rho**2).sum() / chance

    for index in np.ndindex(lead):
        w = np.ones(z.shape[-2]) if weight is None else weight[index]
        if not w.any():
            continue
        counted[index] = True
        target = 1.0
        if x is not None:
            target = correlation(x[index], noise[index], w)
        values[index] = abs(correlation(z[index], z_noise[index], w) - target)
    if reduction == "none":
        return values
    total = values.sum()
    return total / max(counted.sum(), 1) if reduction == "mean" else total
