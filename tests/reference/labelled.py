"""Loops over the labelled rows, and the classes, of both views."""

import numpy as np


def rows_of_both(
    z_a,
    z_b,
    labels_a,
    labels_b,
    weight_a,
    weight_b,
    temperature,
    intra_modal,
    normalize,
    loss,
):
    """Return ``loss`` of every row, (…, N + M), and its weight.

    The weight of a row without positives is 0. ``loss`` gets the similarities, the row,
    its positives, and all rows that are there.
    """
    z = np.concatenate([z_a, z_b], -2)
    labels = np.concatenate([labels_a, labels_b], -1)
    weight = np.concatenate(
        [
            np.ones(labels_a.shape) if weight_a is None else weight_a,
            np.ones(labels_b.shape) if weight_b is None else weight_b,
        ],
        -1,
    )
    values = np.zeros(labels.shape, dtype=np.result_type(z, float))
    for g in np.ndindex(z.shape[:-2]):
        u = z[g]
        if normalize:
            norm = np.sqrt((u * u).sum(-1, keepdims=True))
            u = u / np.where(norm == 0, 1, norm)
        s = u @ u.T / temperature
        there = weight[g] > 0
        for i in range(len(u)):
            others = [j for j in range(len(u)) if j != i and there[j]]
            if not intra_modal:
                first = labels_a.shape[-1]
                others = [j for j in others if (i < first) != (j < first)]
            positives = [j for j in others if labels[g][j] == labels[g][i]]
            if there[i] and positives:
                values[g][i] = loss(s, i, positives, others)
            else:
                weight[g][i] = 0.0
    return values, weight


def weighted_mean(values, weight, reduction):
    """Return Σwℓ/Σw, or what else is asked for."""
    weighted = weight * values
    if reduction == "none":
        return weighted
    total = weighted.sum()
    return total if reduction == "sum" or weight.sum() == 0 else total / weight.sum()


def shared_centers(z_a, z_b, labels_a, labels_b, weight_a, weight_b, reduction, loss):
    """Return ``loss`` of every problem's pairs of centres, or the mean or sum.

    The pairs are the weighted means of the rows of each class that both views have.
    Without one a problem is 0, and the mean passes over it.
    """
    lead = z_a.shape[:-2]
    weight_a = np.ones(labels_a.shape) if weight_a is None else weight_a
    weight_b = np.ones(labels_b.shape) if weight_b is None else weight_b
    values, counted = np.zeros(lead, dtype=np.result_type(z_a, z_b, float)), 0
    for g in np.ndindex(lead):
        centers = []
        for label in sorted(set(labels_a[g].tolist()) & set(labels_b[g].tolist())):
            pair = []
            for z, labels, weight in (
                (z_a[g], labels_a[g], weight_a[g]),
                (z_b[g], labels_b[g], weight_b[g]),
            ):
                of_class = np.flatnonzero((labels == label) & (weight > 0))
                if len(of_class):
                    w = weight[of_class]
                    pair.append(w @ z[of_class] / w.sum())
            if len(pair) == 2:
                centers.append(pair)
        if centers:
            counted += 1
            values[g] = loss(centers)
    if reduction == "none":
        return values
    return values.sum() / (max(counted, 1) if reduction == "mean" else 1)
