"""The curve of collapse: what is written is what was measured, and shows it."""

import json

import pytest

from benchmarks import collapse


def _results():
    return json.loads(collapse.FILE.read_text(encoding="utf-8"))


def test_the_page_is_the_results():
    page = collapse.PAGE.read_text(encoding="utf-8")
    assert collapse.rewritten(page, _results()) == page
    assert list(_results()) == [way.name for way in collapse.WAYS]


def test_the_results_say_what_the_page_says():
    """Alone, the training rows go on and all else falls; with noise it does not."""
    alone, *with_noise = _results().values()
    best = max(row["r2"] for row in alone)
    assert alone[-1]["train"] == max(row["train"] for row in alone)
    assert alone[-1]["r2"] < best - 0.04
    assert alone[-1]["held_out"] < max(row["held_out"] for row in alone) - 0.2
    for rows in with_noise:
        assert rows[-1]["r2"] > best - 0.01
        assert rows[-1]["held_out"] > alone[-1]["held_out"] + 0.5


@pytest.mark.parametrize("way", collapse.WAYS[::2], ids=lambda way: way.name)
def test_it_runs(way):
    first, second = collapse.measure(way, epochs=(0, 2))
    assert second["train"] > first["train"]
    assert first["r2"] < second["r2"] < 1
