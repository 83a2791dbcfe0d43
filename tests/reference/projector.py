"""Linear CCA by symmetric inverse roots of covariances."""

import numpy as np
import scipy.linalg


def components(a, b, w, k, ridge, ridge_scale="absolute"):
    """Return K correlations, and the K components of the rows of either view.

    The largest entry of each direction in the first view is positive.
    """
    d = a.shape[1]
    joint = np.cov(a.T, b.T, aweights=w)
    s_aa, s_ab, s_bb = joint[:d, :d], joint[:d, d:], joint[d:, d:]
    roots = []
    for s in (s_aa, s_bb):
        r = ridge * np.trace(s) / len(s) if ridge_scale == "relative" else ridge
        roots.append(scipy.linalg.fractional_matrix_power(s + r * np.eye(len(s)), -0.5))
    u, rho, vt = np.linalg.svd(roots[0] @ s_ab @ roots[1], full_matrices=False)
    along_a, along_b = roots[0] @ u[:, :k], roots[1] @ vt[:k].T
    sign = np.sign(along_a[np.abs(along_a).argmax(0), range(k)])
    return (
        rho[:k],
        (a - np.average(a, axis=0, weights=w)) @ along_a * sign,
        (b - np.average(b, axis=0, weights=w)) @ along_b * sign,
    )
