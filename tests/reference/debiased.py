"""Debiased contrast (2007.00224, Eqs. 7 and 8), hard negatives (2010.04592, Eq. 4)."""

import numpy as np

from reference.anchors import of_rows


def debiased(
    z_a,
    z_b,
    *,
    temperature=0.07,
    false_negatives=0.1,
    hardness=0.0,
    chunk_size=None,
    **options,
):
    """Return log(1 + G / e^positive), with G the corrected sum over the negatives."""
    del chunk_size  # a way of computing, not a quantity

    def row(partner, negatives, problem):
        s, p, count = negatives / temperature, partner / temperature, len(negatives)
        top = s.real.max()
        importance = np.exp(hardness * (s - top))
        total = count * (importance * np.exp(s - p)).sum() / importance.sum()
        corrected = (total - count * false_negatives) / (1 - false_negatives)
        least = count * np.exp(-1 / temperature - p)
        return np.log(1 + (corrected if corrected.real > least.real else least))

    return of_rows(row, z_a, z_b, **options)
