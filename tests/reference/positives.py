"""Paired rows whose pairs are positives, negatives or neither, by loops."""

import numpy as np


def of_rows(
    row,
    z_a,
    z_b,
    *,
    positive,
    temperature=0.07,
    symmetric=True,
    normalize=True,
    negatives="group",
    exclude=None,
    ids=None,
    positions=None,
    exclude_radius=None,
    weight=None,
    reduction="mean",
):
    """Reduce ``row(logits, weights of the positives, who is a negative)`` of all rows.

    ``positive(g, i, h, j)`` is the weight of the pair of a row (g, i) and b row (h, j),
    0 if it is none.
    """
    lead, (rows, dim) = z_a.shape[:-2], z_a.shape[-2:]
    a, b = z_a.reshape(-1, rows, dim), z_b.reshape(-1, rows, dim)
    groups = len(a)
    w = np.ones((groups, rows)) if weight is None else weight.reshape(groups, rows)
    if normalize:
        a, b = (
            z / np.where((n := np.sqrt((z * z).sum(-1, keepdims=True))) == 0, 1, n)
            for z in (a, b)
        )
    logits = np.einsum("gid,hjd->gihj", a, b) / temperature
    targets = np.zeros(logits.shape)
    allowed = np.zeros(logits.shape, dtype=bool)
    for g, i, h, j in np.ndindex(logits.shape):
        if w[g, i] == 0 or w[h, j] == 0:
            continue
        if not (g == h or negatives == "all" or (negatives == "cross" and i == j)):
            continue
        targets[g, i, h, j] = positive(g, i, h, j)
        told = ids is not None and np.array_equal(
            ids.reshape(groups, rows)[g, i], ids.reshape(groups, rows)[h, j]
        )
        if g == h:
            if exclude is not None:
                told |= exclude.reshape(groups, rows, rows)[g, i, j]
            if positions is not None and exclude_radius is not None:
                at = positions.reshape(groups, rows, -1)[g]
                told |= np.abs(at[i] - at[j]).max() <= exclude_radius
        itself = (g, i) == (h, j)
        allowed[g, i, h, j] = not (told or itself or targets[g, i, h, j] > 0)

    values = np.zeros((groups, rows), dtype=logits.dtype)
    for g, i in np.ndindex(groups, rows):
        if w[g, i] == 0:
            continue
        sides = [(logits[g, i], targets[g, i], allowed[g, i])]
        if symmetric:
            sides.append((logits[..., g, i], targets[..., g, i], allowed[..., g, i]))
        for s, t, n in sides:
            partner = g * rows + i
            values[g, i] += row(s.ravel(), t.ravel(), n.ravel(), partner) / len(sides)
    weighted = w * values
    if reduction == "none":
        return weighted.reshape(*lead, rows)
    total = weighted.sum()
    if reduction == "sum" or w.sum() == 0:
        return total
    return total / w.sum()


def near(positions, z, radius):
    """Return whether two rows of a group are within the radius, and how far apart."""
    rows = z.shape[-2]
    at = positions.reshape(-1, rows, positions.shape[-1])

    def tell(g, i, h, j):
        gap = at[g, i] - at[h, j]
        close = g == h and np.abs(gap).max() <= radius
        return close, np.sqrt((gap * gap).sum())

    return tell
