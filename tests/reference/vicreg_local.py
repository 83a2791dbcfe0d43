"""The local term of VICRegL (Bardes, Ponce & LeCun, 2210.01571), pair by pair."""

import numpy as np

from .vicreg import vicreg


def partners(here, there, w_here, w_there, num_matches):
    """Return the (place, partner) that are kept of one image, in the order of places.

    A place without a partner is a pair of no weight, and the last to be kept.
    """
    found = []
    for p, x in enumerate(here):
        distances = [
            np.inf
            if w_here[p] == 0 or w_there[q] == 0
            else np.sqrt(((x - y).real ** 2).sum())
            for q, y in enumerate(there)
        ]
        nearest = min(range(len(there)), key=distances.__getitem__)
        found.append((distances[nearest], p, nearest))
    kept = sorted(found)[: num_matches or len(found)]
    return sorted((p, q, distance < np.inf) for distance, p, q in kept)


def direction(a, b, x_a, x_b, w_a, w_b, num_matches, pooled, options):
    """Return the mean over slots of the loss of the places of *a*; None without any."""
    matches = [
        partners(x_a[n], x_b[n], w_a[n], w_b[n], num_matches) for n in range(len(a))
    ]
    slots = len(matches[0])
    pairs = [
        [
            (a[n, p], b[n, q], w_a[n, p] * w_b[n, q] * there)
            for n, (p, q, there) in enumerate(slot)
        ]
        for slot in zip(*matches, strict=True)
    ]
    assert len(pairs) == slots
    if pooled:
        pairs = [[pair for slot in pairs for pair in slot]]
    values = []
    for slot in pairs:
        u, v, w = (np.array(part) for part in zip(*slot, strict=True))
        if w.sum() > 0:
            values.append(vicreg(u, v, weight=w, convention="vicregl", **options))
    return sum(values) / len(values) if values else None


def vicreg_local(
    z_a,
    z_b,
    *,
    positions_a=None,
    positions_b=None,
    matching="positions",
    num_matches=None,
    pooled=False,
    weight_a=None,
    weight_b=None,
    reduction="mean",
    **options,
):
    """Return the mean of both directions."""
    lead = z_a.shape[:-3]
    if weight_a is None:
        weight_a = np.ones(z_a.shape[:-1])
    if weight_b is None:
        weight_b = np.ones(z_b.shape[:-1])
    if matching == "features":
        positions_a, positions_b = z_a, z_b
    elif positions_a is None:
        places = np.arange(z_a.shape[-2])[:, None]
        positions_a = positions_b = np.broadcast_to(places, (*z_a.shape[:-1], 1))
        # Of places that are known to be one, both or none count.
        both = (weight_a > 0) & (weight_b > 0)
        weight_a, weight_b = weight_a * both, weight_b * both
    values = np.zeros(lead, dtype=np.result_type(z_a, z_b))
    counted = np.zeros(lead, dtype=bool)
    for index in np.ndindex(lead):
        a = z_a[index], positions_a[index], weight_a[index]
        b = z_b[index], positions_b[index], weight_b[index]
        ways = [
            direction(
                *(part for pair in zip(x, y, strict=True) for part in pair),
                num_matches,
                pooled,
                options,
            )
            for x, y in ((a, b), (b, a))
        ]
        if None not in ways:
            values[index] = sum(ways) / 2
            counted[index] = True
    if reduction == "none":
        return values
    total = values.sum()
    return total / max(counted.sum(), 1) if reduction == "mean" else total
