"""DCCA (Andrew et al., ICML 2013), through the angles between subspaces.

Canonical correlations are the cosines of the principal angles between the column
spaces of the centred views (Björck & Golub, 1973). A ridge is that many extra rows,
orthogonal to each other and to the other view, so no covariance is ever formed,
inverted or decomposed here.
"""

import numpy as np
import scipy.linalg

from .problems import centre, reduce_problems


def canonical_correlations(a, b, w, ridge=0.0, ridge_b=None):
    """Return the min(D_a, D_b) ridge canonical correlations, largest first."""
    ridge_b = ridge if ridge_b is None else ridge_b
    divisor = w.sum() - (w**2).sum() / w.sum()
    scale = np.sqrt(w / divisor)[:, None]
    d_a, d_b = a.shape[1], b.shape[1]
    a = np.vstack(
        [scale * centre(a, w), np.sqrt(ridge) * np.eye(d_a), np.zeros((d_b, d_a))]
    )
    b = np.vstack(
        [scale * centre(b, w), np.zeros((d_a, d_b)), np.sqrt(ridge_b) * np.eye(d_b)]
    )
    # The cosines themselves: scipy.linalg.subspace_angles goes through angles, and
    # loses half of the digits of those near 0 or 90 degrees.
    return scipy.linalg.svdvals(scipy.linalg.orth(a).T @ scipy.linalg.orth(b))


def dcca(
    z_a,
    z_b,
    *,
    num_components=None,
    ridge=1e-4,
    ridge_scale="absolute",
    objective="trace",
    compute_dtype=None,
    weight=None,
    reduction="mean",
):
    """Return -Σρ ("trace") or -Σρ² ("frobenius") of the top components."""
    del compute_dtype

    def one(a, b, w, _):
        if len(w) < 2:
            return 0.0
        ridges = ridge, ridge
        if ridge_scale == "relative":
            ridges = [
                ridge * np.trace(np.atleast_2d(np.cov(z.T, aweights=w))) / z.shape[1]
                for z in (a, b)
            ]
        rho = canonical_correlations(a, b, w, *ridges)[:num_components]
        return -(rho.sum() if objective == "trace" else (rho**2).sum())

    return reduce_problems(one, [z_a, z_b], [weight, weight], reduction)
