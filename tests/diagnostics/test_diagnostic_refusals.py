"""What diagnostics refuse: tensors, options, too few rows, no partners."""

import pytest
import torch

from xmodal_losses import diagnostics

Z = torch.ones(5, 3)


OF_ONE = ("rank_me", "effective_rank", "uniformity", "dead_dimensions", "hinge_counts")
OF_TWO = ("alignment", "modality_gap", "canonical_spectrum", "linear_cka")


def _views(name):
    return [Z] if name in OF_ONE else [Z, Z]


@pytest.mark.parametrize("name", OF_ONE + OF_TWO)
@pytest.mark.parametrize(
    ("argument", "bad", "exception"),
    [
        ("z", [[1.0]], TypeError),
        ("z", Z.long(), TypeError),
        ("z", Z[0], ValueError),
        ("z", Z[:0], ValueError),
        ("z", Z[:, :0], ValueError),
        ("weight", [1.0] * 5, TypeError),
        ("weight", torch.ones(4), ValueError),
    ],
)
def test_bad_tensors_are_refused(name, argument, bad, exception):
    views, options = _views(name), {}
    if argument == "weight":
        options["weight"] = bad
    else:
        views = [bad, *views[1:]]
        argument = "z_a" if len(views) == 2 else "z"
    message = rf"^{name}: {argument} must (be|have) .+, got .+"
    with pytest.raises(exception, match=message):
        getattr(diagnostics, name)(*views, **options)


@pytest.mark.parametrize(
    ("name", "argument", "options", "exception"),
    [
        ("rank_me", "eps", {"eps": -1.0}, ValueError),
        ("rank_me", "eps", {"eps": "0"}, TypeError),
        ("effective_rank", "of", {"of": "columns"}, ValueError),
        ("alignment", "power", {"power": 0.0}, ValueError),
        ("alignment", "normalize", {"normalize": 1}, TypeError),
        ("uniformity", "t", {"t": 0.0}, ValueError),
        ("uniformity", "t", {"t": float("inf")}, ValueError),
        ("uniformity", "normalize", {"normalize": None}, TypeError),
        ("uniformity", "chunk_size", {"chunk_size": 0}, ValueError),
        ("modality_gap", "paired", {"paired": "yes"}, TypeError),
        ("modality_gap", "normalize", {"normalize": 0}, TypeError),
        ("modality_gap", "num_permutations", {"num_permutations": 0}, ValueError),
        ("modality_gap", "num_permutations", {"num_permutations": 9.0}, TypeError),
        ("modality_gap", "generator", {"generator": 0}, TypeError),
        (
            "modality_gap",
            "weight",
            {"paired": False, "weight": torch.ones(5)},
            ValueError,
        ),
        ("dead_dimensions", "threshold", {"threshold": 1.0}, ValueError),
        ("dead_dimensions", "threshold", {"threshold": -0.1}, ValueError),
        ("hinge_counts", "target_std", {"target_std": -1.0}, ValueError),
        ("hinge_counts", "eps", {"eps": -1.0}, ValueError),
        ("canonical_spectrum", "ridge", {"ridge": -1e-9}, ValueError),
        ("linear_cka", "unbiased", {"unbiased": 1}, TypeError),
        (
            "linear_cka",
            "weight",
            {"unbiased": True, "weight": torch.ones(5)},
            ValueError,
        ),
    ],
)
def test_bad_options_are_refused(name, argument, options, exception):
    message = rf"^{name}: {argument} must be .+, got .+"
    with pytest.raises(exception, match=message):
        getattr(diagnostics, name)(*_views(name), **options)


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("canonical_spectrum", {}, 1),
        ("linear_cka", {}, 1),
        ("linear_cka", {"unbiased": True}, 3),
    ],
)
def test_too_few_rows_are_refused(name, options, rows):
    with pytest.raises(ValueError, match=f"{name}: z_a must have at least {rows + 1} "):
        getattr(diagnostics, name)(Z[:rows], Z[:rows], **options)


@pytest.mark.parametrize("name", ["alignment", "modality_gap"])
def test_widths_that_differ_are_refused(name):
    with pytest.raises(ValueError, match="same number of columns"):
        getattr(diagnostics, name)(Z, Z[:, :2])


@pytest.mark.parametrize("name", OF_TWO)
def test_rows_without_a_partner_are_refused(name):
    with pytest.raises(ValueError, match="same number of rows"):
        getattr(diagnostics, name)(Z, Z[:4])
