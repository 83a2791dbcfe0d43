"""The figures of the page are of numbers that the package computes today."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import embedding_data as data
from test_documents import text


def leaves(value):
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


@pytest.mark.parametrize("name", data.FIGURES)
def test_numbers_are_those_of_the_package(name):
    """To the digits that are written; shares of p-values to two trials in 100."""
    kept, found = data.stored()[name], data.computed(name)
    assert kept.keys() == found.keys()
    atol = 0.02 if name == "modality_gap" else 1e-5
    assert_allclose(np.array(leaves(found)), leaves(kept), rtol=1e-3, atol=atol)


def test_figures_are_drawn_from_the_numbers():
    """`python -m benchmarks.embedding_figures` has been run after the last change."""
    kept = data.stored()
    assert kept.keys() == data.FIGURES.keys()
    for name, numbers in kept.items():
        svg = (data.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
        assert f"data {data.digest(numbers)}" in svg
    files = {path.name for path in data.FOLDER.iterdir()}
    assert files == {data.DATA.name} | {f"{name}.svg" for name in kept}


def test_every_figure_is_on_the_page():
    page = text("docs", "embedding_diagnostics.md")
    for name in data.FIGURES:
        assert page.count(f"(_static/diagnostics/{name}.svg)") == 1


def test_what_the_page_says_of_them():
    kept = data.stored()
    spectra = kept["canonical_spectrum"]
    assert_allclose([spectra[n]["edge"] for n in ("1000", "120")], [0.35, 0.89], 0.01)
    for n, count in (("1000", 6), ("120", 3)):
        above = np.array(spectra[n]["paired"]) > spectra[n]["edge"]
        assert above.sum() == count
        assert max(spectra[n]["shuffled"]) < spectra[n]["edge"] + 0.01
    assert (kept["dimensions"]["dead"], kept["dimensions"]["hinge"]) == (8, 16 + 8)
    # Noise counts in RankMe, hardly in the effective rank.
    assert kept["rank"]["rank_me"][0] > 9
    assert_allclose(kept["rank"]["effective_rank"], kept["rank"]["directions"], 0.07)
    assert (
        kept["modality_gap"]["unpaired"][4]
        < 0.05
        < 0.9
        < kept["modality_gap"]["paired"][4]
    )
    cka = kept["linear_cka"]
    assert cka["unrelated, biased"][0] > 0.85
    assert_allclose(cka["unrelated, unbiased"], 0.0, atol=0.07)
    assert_allclose(cka["related, unbiased"], 0.5, atol=0.04)
