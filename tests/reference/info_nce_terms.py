"""What `info_nce_terms` tells of a batch, row by row and negative by negative."""

import numpy as np

#: Closer logits are ties: relative to the size of the two rows.
TIE = 1e-12


def info_nce_terms(
    z_a,
    z_b,
    *,
    temperature=0.07,
    normalize=True,
    negatives="group",
    exclude=None,
    ids=None,
    positions=None,
    exclude_radius=None,
    weight=None,
    reduction="mean",
    chunk_size=None,
):
    """Return the terms in their order."""
    del chunk_size  # a way of computing, not a quantity
    lead, (n, dim) = z_a.shape[:-2], z_a.shape[-2:]
    a, b = z_a.reshape(-1, n, dim), z_b.reshape(-1, n, dim)
    groups = len(a)
    w = np.ones((groups, n)) if weight is None else weight.reshape(groups, n)
    if normalize:
        a, b = (
            z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-300)
            for z in (a, b)
        )

    def is_negative(g, i, h, j):
        """Whether the a row (g, i) and the b row (h, j) are."""
        if (g, i) == (h, j) or w[g, i] == 0 or w[h, j] == 0:
            return False
        if ids is not None:
            flat = ids.reshape(groups, n)
            if flat[g, i] == flat[h, j]:
                return False
        if g != h:
            return negatives == "all" or (negatives == "cross" and i == j)
        if exclude is not None and exclude.reshape(groups, n, n)[g, i, j]:
            return False
        if positions is None:
            return True
        at = positions.reshape(groups, n, -1)[g]
        return np.abs(at[i] - at[j]).max() > exclude_radius

    positive = np.zeros((groups, n))
    names = ("loss", "log", "rank", "count", "mean", "effective")
    sides = [{name: np.zeros((groups, n)) for name in names} for _ in "ab"]
    for g, i in np.ndindex(groups, n):
        if w[g, i] > 0:
            positive[g, i] = a[g, i] @ b[g, i] / temperature
        size = np.linalg.norm(a[g, i]) * np.linalg.norm(b[g, i]) / temperature
        for side, found in enumerate(sides):
            logits = []
            for h, j in np.ndindex(groups, n):
                row, column = ((g, i), (h, j)) if side == 0 else ((h, j), (g, i))
                if is_negative(*row, *column):
                    logits.append(a[row] @ b[column] / temperature)
            logits = np.array(logits)
            found["count"][g, i] = len(logits)
            found["rank"][g, i] = (logits >= positive[g, i] - TIE * size).sum()
            if not len(logits):
                found["log"][g, i] = -np.inf
                continue
            found["mean"][g, i] = logits.mean()
            top = logits.max()
            e = np.exp(logits - top)
            found["log"][g, i] = top + np.log(e.sum())
            found["effective"][g, i] = 1 / ((e / e.sum()) ** 2).sum()
            found["loss"][g, i] = np.logaddexp(0, found["log"][g, i] - positive[g, i])

    def reduced(values):
        if reduction == "none":
            return (w * values).reshape(*lead, n)
        total = (w * values).sum()
        return total / w.sum() if reduction == "mean" and w.sum() > 0 else total

    def rows(values):
        return values.reshape(*lead, n)

    return (
        *(reduced(found["loss"]) for found in sides),
        *(reduced(found["rank"] == 0) for found in sides),
        rows(positive),
        *(rows(found[k]) for k in names[1:] for found in sides),
    )


def summary(z_a, z_b, *, top=(1, 5), **options):
    """Return the summary of the terms, by name."""
    options["reduction"] = "none"
    terms = info_nce_terms(z_a, z_b, **options)
    positive = terms[4]
    log, rank, count, mean, effective = (terms[k : k + 2] for k in (5, 7, 9, 11, 13))
    w = options.get("weight")
    w = np.ones(positive.shape) if w is None else w
    temperature = options.get("temperature", 0.07)

    def average(values, rows=True):
        chosen = w * rows
        return (chosen * values).sum() / chosen.sum() if chosen.sum() > 0 else 0.0

    out = {"positive_similarity": average(positive * temperature)}
    for side, name in enumerate(("a_to_b", "b_to_a")):
        for k in top:
            out[f"top_{k}_{name}"] = average(rank[side] < k)
        some = count[side] > 0
        out[f"negative_similarity_{name}"] = average(mean[side] * temperature, some)
        out[f"negatives_{name}"] = average(count[side], some)
        out[f"effective_negatives_{name}"] = average(effective[side], some)
        out[f"saturated_{name}"] = average(log[side] - positive < -17, some)
    return out
