"""InfoNCE (van den Oord et al., 1807.03748, Eq. 4), symmetric as CLIP (2103.00020)."""

import numpy as np


def _log_sum_exp(x: np.ndarray) -> complex:
    top = x.real.max()
    return top + np.log(np.exp(x - top).sum())


def _softplus(x: complex) -> complex:
    if x.real > 0:
        return x + np.log1p(np.exp(-x))
    return np.log1p(np.exp(x))


def _unit(z: np.ndarray) -> np.ndarray:
    norm = np.sqrt((z * z).sum(-1, keepdims=True))
    return z / np.where(norm == 0, 1, norm)


def _is_negative(g, i, h, j, negatives, exclude, near, ids, weight):
    """Whether b row (h, j) is a negative of the a row (g, i), and the other way."""
    if (g, i) == (h, j) or weight[g, i] == 0 or weight[h, j] == 0:
        return False
    if ids is not None and ids[g, i] == ids[h, j]:
        return False
    if g == h:
        return not (exclude is not None and exclude[g, i, j]) and not near[g, i, j]
    return negatives == "all" or (negatives == "cross" and i == j)


def _near(positions, radius):
    """Whether two rows of a group are within the radius, (G, N, N)."""
    gap = positions[:, :, None] - positions[:, None, :]
    return np.abs(gap).max(-1) <= radius


def _of_row(extra, way, row, own_id):
    """Return the extra negatives of a row in this direction."""
    rows_a, rows_b, extra_ids, valid = extra
    rows = rows_b if way == 0 else rows_a
    rows = rows.reshape(-1, *rows.shape[-2:])[row]
    keep = np.ones(len(rows), dtype=bool)
    if valid is not None:
        keep &= valid.reshape(-1, len(rows))[row]
    if extra_ids is not None:
        keep &= extra_ids.reshape(-1, len(rows))[row] != own_id
    return rows[keep]


def info_nce(
    z_a,
    z_b,
    *,
    temperature=0.07,
    symmetric=True,
    normalize=True,
    negatives="group",
    exclude=None,
    ids=None,
    positions=None,
    exclude_radius=None,
    direction_weight=0.5,
    margin=0.0,
    hardest=None,
    guide=None,
    guide_margin=0.0,
    extra=None,
    weight=None,
    reduction="mean",
    chunk_size=None,
):
    """Return softplus(LSE of the negatives - positive + margin), both directions.

    ``extra`` is (rows of a, rows of b, ids, valid) with the shapes (…, N, K, D) and
    (…, N, K): what is for several rows is repeated.
    """
    del chunk_size  # a way of computing, not a quantity
    lead, (rows, dim) = z_a.shape[:-2], z_a.shape[-2:]
    a, b = z_a.reshape(-1, rows, dim), z_b.reshape(-1, rows, dim)
    groups = len(a)
    w = np.ones((groups, rows)) if weight is None else weight.reshape(groups, rows)
    if exclude is not None:
        exclude = exclude.reshape(groups, rows, rows)
    if ids is not None:
        ids = ids.reshape(groups, rows)
    near = np.zeros((groups, rows, rows), dtype=bool)
    if positions is not None:
        near = _near(positions.reshape(groups, rows, -1), exclude_radius)
    if normalize:
        a, b = _unit(a), _unit(b)

    logits = np.einsum("gid,hjd->gihj", a, b) / temperature
    allowed = np.zeros(logits.shape, dtype=bool)
    for g, i, h, j in np.ndindex(allowed.shape):
        allowed[g, i, h, j] = _is_negative(g, i, h, j, negatives, exclude, near, ids, w)

    if guide is not None:
        g_a, g_b = (_unit(z.reshape(groups, rows, -1)) for z in guide)
        likeness = np.einsum("gid,hjd->gihj", g_a, g_b)
        own = np.einsum("gid,gid->gi", g_a, g_b)
    shares = (direction_weight, 1 - direction_weight) if symmetric else (1.0,)

    some_extra = [z for z in (extra or ())[:2] if z is not None]
    dtype = np.result_type(logits, *some_extra)
    values = np.zeros((groups, rows), dtype=dtype)
    for g, i in np.ndindex(groups, rows):
        if w[g, i] == 0:
            continue
        positive = logits[g, i, g, i]
        for way, share in enumerate(shares):
            pairs = (g, i) if way == 0 else (slice(None), slice(None), g, i)
            scores, some = logits[pairs], allowed[pairs]
            if guide is not None:
                some = some & ~(likeness[pairs] > own[g, i] - guide_margin)
            scores = scores[some]
            if extra is not None and extra[1 - way] is not None:
                anchor = (a, b)[way][g, i]
                own_id = None if ids is None else ids[g, i]
                more = _of_row(extra, way, g * rows + i, own_id)
                more = _unit(more) if normalize else more
                scores = np.concatenate([scores, more @ anchor / temperature])
            if hardest is not None:
                scores = scores[np.argsort(-scores.real)[:hardest]]
            if scores.size:
                loss = _softplus(_log_sum_exp(scores) - positive + margin)
                values[g, i] += share * loss

    weighted = w * values
    if reduction == "none":
        return weighted.reshape(*lead, rows)
    total = weighted.sum()
    if reduction == "sum":
        return total
    return total / w.sum() if w.sum() > 0 else total
