"""Divide RoadScene into training, validation and test by scene.

The test names are RoadScene's part of the VIS_IR list of ReDFeat's benchmark
(github.com/ACuOoOoO/Multimodal_Feature_Evaluation), so that numbers can be compared.
RoadScene's frames come from a few drives, numbered in time: neighbours show one
scene. Frames whose numbers differ by ten or less, and the near-duplicates known to lie
further apart, form a group, and a group is never divided: with one member in the test
set, the others are left out altogether.

Of other pairs nothing is known but the order of their names, taken for that of time:
`split_by_order` divides them into long runs, and leaves out those in between.
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

__all__ = [
    "NEAR_DUPLICATES",
    "TEST_NAMES",
    "Split",
    "split_by_order",
    "split_by_scene",
]

# fmt: off
TEST_NAMES = frozenset({
    "FLIR_00122", "FLIR_00211", "FLIR_00452", "FLIR_00578", "FLIR_00993",
    "FLIR_01463", "FLIR_03952", "FLIR_04229", "FLIR_04354", "FLIR_04370",
    "FLIR_04701", "FLIR_04968", "FLIR_04997", "FLIR_05016", "FLIR_05164",
    "FLIR_05573", "FLIR_05872", "FLIR_06184", "FLIR_06219", "FLIR_06307",
    "FLIR_06983", "FLIR_06997", "FLIR_07125", "FLIR_07371", "FLIR_07427",
    "FLIR_07620", "FLIR_07809", "FLIR_07970", "FLIR_08191", "FLIR_08220",
    "FLIR_08721", "FLIR_08914", "FLIR_08992", "FLIR_09016", "FLIR_09416",
    "FLIR_09488", "FLIR_09624", "FLIR_video_01053", "FLIR_video_03894",
})
# fmt: on

NEAR_DUPLICATES = (
    ("FLIR_00455", "FLIR_00594", "FLIR_00603"),
    ("FLIR_06099", "FLIR_06128"),
    ("FLIR_07190", "FLIR_07206"),
    ("FLIR_08202", "FLIR_08220", "FLIR_08248"),
    ("FLIR_09437", "FLIR_video_02223"),
    ("FLIR_09465", "FLIR_video_02829"),
)

NEIGHBOURS = 10  # frame numbers this close show one scene
BLOCK = 8  # pairs in a contiguous block
EVERY = 5  # one block in this many is for validation


class Split(NamedTuple):
    """Names of the three parts, and of those left out as too near to the test."""

    train: list[str]
    validation: list[str]
    test: list[str]
    left_out: list[str]


def frame(name: str) -> tuple[str, int]:
    """Split ``FLIR_video_00069`` into its series and its number."""
    series, digits = re.fullmatch(r"(.*?)(\d*)", name).groups()
    return series, int(digits or 0)


def scene_groups(names: Iterable[str]) -> list[list[str]]:
    """Join neighbours and near-duplicates; groups in order of their first member."""
    names = sorted(names, key=frame)
    group = {name: [name] for name in names}

    def join(a: str, b: str) -> None:
        if group[a] is not group[b]:
            merged = group[a] + group[b]
            group.update(dict.fromkeys(merged, merged))

    for a, b in pairwise(names):
        (series_a, number_a), (series_b, number_b) = frame(a), frame(b)
        if series_a == series_b and number_b - number_a <= NEIGHBOURS:
            join(a, b)
    for known in NEAR_DUPLICATES:
        present = [name for name in known if name in group]
        for name in present[1:]:
            join(present[0], name)
    return list({id(group[name]): group[name] for name in names}.values())


def split_by_scene(
    names: Iterable[str], test_names: Iterable[str] = TEST_NAMES
) -> Split:
    """Split `names`; the parts share no group, and no random choice is made."""
    test_names = frozenset(test_names)
    test: list[str] = []
    left_out: list[str] = []
    blocks: list[list[str]] = [[]]
    for group in scene_groups(names):
        if test_names.isdisjoint(group):
            if len(blocks[-1]) >= BLOCK:
                blocks.append([])
            blocks[-1] += group
        else:
            for name in group:
                (test if name in test_names else left_out).append(name)
    train: list[str] = []
    validation: list[str] = []
    for i, block in enumerate(blocks):
        (validation if i % EVERY == EVERY // 2 else train).extend(block)
    parts = train, validation, test, left_out
    return Split(*(sorted(part) for part in parts))


STRETCH = 50  # pairs, at least, that are divided together
STRETCHES = 5  # of these, at most


def natural(name: str) -> list[tuple[int, str]]:
    """Return what to sort names by so that ``frame_9`` comes before ``frame_10``."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d+)", name)
    ]


def split_by_order(
    names: Iterable[str], *, validation: float, test: float, gap: int
) -> Split:
    """Split names into contiguous runs; no random choice is made.

    The names, numbers in them compared as such, are cut into up to five equal
    stretches of at least 50. Each is divided into a run for validation, one for
    training and one for test, every other stretch the other way round: equal parts
    meet at the seams, and every border is one of a training run. From its two ends
    `gap` names are left out, so that no neighbour of a held-out pair is trained on.

    Args:
        names: Of the pairs.
        validation: Share for validation; at least one name of every stretch.
        test: Share for test; the same.
        gap: How many names between training and the others are left out.
    """
    names = sorted(names, key=natural)
    count = min(max(len(names) // STRETCH, 1), STRETCHES)
    split = Split([], [], [], [])
    for i in range(count):
        stretch = names[i * len(names) // count : (i + 1) * len(names) // count]
        if i % 2:
            stretch.reverse()
        held, end = (max(round(x * len(stretch)), 1) for x in (validation, test))
        middle = stretch[held : len(stretch) - end]
        cut = max(len(middle) - gap, gap)
        split.validation.extend(stretch[:held])
        split.train.extend(middle[gap:cut])
        split.left_out.extend(middle[:gap] + middle[cut:])
        split.test.extend(stretch[max(len(stretch) - end, held) :])
    return Split(*(sorted(part, key=natural) for part in split))
