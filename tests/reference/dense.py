"""Cells, bilinear reading and suppression, pixel by pixel."""

import math

import numpy as np


def bilinear(features, positions):
    """Read (C, H, W) at (x, y), (P, 2): weights of all pixels are hat functions."""
    channels, height, width = features.shape
    rows = np.zeros((len(positions), channels))
    for row, (x, y) in zip(rows, positions, strict=True):
        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        for i in range(height):
            for j in range(width):
                share = max(0, 1 - abs(x - j)) * max(0, 1 - abs(y - i))
                if share:
                    row += share * features[:, i, j]
    return rows


def cells(num, height, width):
    """Return the (top, bottom, left, right) of every cell."""
    if isinstance(num, tuple):
        bands = num[0]
        counts = [num[1]] * bands
    else:
        bands = round(math.sqrt(num * height / width))
        bands = max(bands, 1, -(-num // width))
        bands = min(bands, height, num)
        counts = [(i + 1) * num // bands - i * num // bands for i in range(bands)]
    out = []
    for i, count in enumerate(counts):
        top, bottom = i * height // bands, (i + 1) * height // bands
        edges = [j * width // count for j in range(count + 1)]
        out += [(top, bottom, *edges[j : j + 2]) for j in range(count)]
    return out


def greedy(scores, num, distance):
    """Return up to num places (x, y) from the highest score down, far enough apart."""
    height, width = scores.shape
    order = sorted(
        ((x, y) for y in range(height) for x in range(width) if scores[y, x] > 0),
        key=lambda place: -scores[place[1], place[0]],
    )
    taken = []
    for x, y in order:
        if all(max(abs(x - u), abs(y - v)) >= distance for u, v in taken):
            taken.append((x, y))
    return taken[:num]
