"""The table of docs/choosing.md says of every loss what the loss does."""

import inspect
import re
from typing import get_args, get_type_hints

import pytest
import torch

import xmodal_losses.functional as F
from test_api import LOSSES
from test_documents import text

COLUMNS = (
    "paired",
    "negatives",
    "labels",
    "rows",
    "collapse",
    "time",
    "twice",
    "exchanged",
)


def table():
    """Return the rows by function."""
    found = re.findall(
        r"^\| \[[^]]+\]\(losses/(\w+)\.md\) \| (.*) \|$",
        text("docs", "choosing.md").split("## What each loss needs")[1],
        re.M,
    )
    return {
        name: dict(zip(COLUMNS, row.split(" | "), strict=True)) for name, row in found
    }


TABLE = table()
each_loss = pytest.mark.parametrize("name", LOSSES)
ROWS, WIDTH, CLASSES = 64, 8, 4
LABELS = torch.arange(ROWS) % CLASSES
TWICE = {
    "dcca": {"objective": "frobenius"},
    "mcca": {"objective": "frobenius"},
    "noise_regularization": {"chance_corrected": True},
}


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64)


def evaluate(name, z_a, z_b, **options):
    """Call a loss of any signature with N rows of two modalities."""
    function = getattr(F, name)
    if name == "contrastive_center":
        z = torch.cat((z_a, z_b))
        labels = LABELS.repeat(2)
        classes = torch.eye(CLASSES, dtype=z.dtype)[labels]
        centers = classes.T @ z / classes.sum(0)[:, None]
        return function(z, labels, centers, **options)
    if name == "dgcca":
        return function([z_a, z_b], num_components=WIDTH, **options)
    if name in ("mcca", "eckart_young"):
        return function([z_a, z_b], **options)
    if name == "noise_regularization":
        x, noise = draw(2, ROWS, WIDTH)
        return function(z_a, z_b, x, noise, **options)
    if name == "vicreg_local":
        z_a, z_b = (z.unflatten(0, (-1, 4)) for z in (z_a, z_b))
        return function(z_a, z_b, pooled=True, **options)
    if "labels_a" in inspect.signature(function).parameters:
        labels = LABELS[: len(z_a)], LABELS[: len(z_b)]
        return function(z_a, z_b, *labels, **options)
    return function(z_a, z_b, **options)


def test_the_table_has_every_loss():
    assert list(TABLE) == list(dict.fromkeys(TABLE))
    assert set(TABLE) == set(LOSSES)


@each_loss
def test_paired_losses_want_as_many_rows(name):
    if TABLE[name]["paired"] == "images" or name == "contrastive_center":
        return
    z_a, z_b = draw(ROWS, WIDTH), draw(ROWS - 4, WIDTH)
    if TABLE[name]["paired"] == "yes":
        with pytest.raises((ValueError, RuntimeError)):
            evaluate(name, z_a, z_b)
    else:
        assert evaluate(name, z_a, z_b).isfinite()


@each_loss
def test_labels_and_negatives_are_in_the_signature(name):
    parameters = inspect.signature(getattr(F, name)).parameters
    labels = any(parameter.startswith("labels") for parameter in parameters)
    assert TABLE[name]["labels"] == ("yes" if labels else "no")
    contrasts = "temperature" in parameters or "bias" in parameters
    if contrasts:
        assert TABLE[name]["negatives"] in ("yes", "classes")
    else:
        assert TABLE[name]["negatives"] in ("no", "centres")


@pytest.mark.parametrize(
    "name", [n for n in TABLE if TABLE[n]["negatives"] == "centres"]
)
def test_other_centres_repel(name):
    z = torch.eye(WIDTH, dtype=torch.float64)[LABELS] + 0.1 * draw(ROWS, WIDTH)
    apart, together = z.clone(), z.clone()
    apart[LABELS == 0, 0] += 0.5  # class 0 goes away from the others, as a whole
    together[LABELS == 0, 0] -= 0.5
    options = {"margin": 3.0} if name == "hetero_center_triplet" else {}
    far, near = (evaluate(name, z, z + 0.1, **options) for z in (apart, together))
    assert far < near


def spread(name):
    """Return the slope of the loss when a cloud that is nearly a point gets wider."""
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    shape = draw(ROWS, WIDTH)
    if TABLE[name]["labels"] == "yes":  # classes that are nearly points
        shape = 3 * draw(CLASSES, WIDTH)[LABELS] + 0.01 * shape
    shape = shape - shape.mean(0)
    z = 1.0 + 0.01 * factor * shape
    (slope,) = torch.autograd.grad(evaluate(name, z, z + 0.0), factor)
    return slope


@each_loss
def test_against_collapse_to_a_point(name):
    says = TABLE[name]["collapse"]
    if name == "noise_regularization":  # a term about what an encoder does to noise
        return
    if "spread" in says:
        assert spread(name) < -1e-6
    elif name not in ("dcca", "dgcca", "mcca"):  # their ridge pushes, as it is absolute
        assert spread(name) > -1e-9


@each_loss
def test_against_collapse_of_rank(name):
    says = TABLE[name]["collapse"]
    if says == "spread" or name == "noise_regularization":
        return
    columns = torch.linalg.qr(draw(ROWS, WIDTH))[0] * ROWS**0.5
    full = columns - columns.mean(0)
    lost = full[:, :1].expand(-1, WIDTH) * torch.linspace(0.9, 1.1, WIDTH)
    if TABLE[name]["labels"] == "yes":
        full, lost = full[LABELS], lost[LABELS]
    sizes = (1.0,) if name != "eckart_young" else (0.3, 0.5, 0.7)
    best, collapsed = (
        min(evaluate(name, size * z, size * z) for size in sizes) for z in (full, lost)
    )
    if "rank" in says:
        assert collapsed > best + 0.01
    else:
        assert collapsed <= best + 1e-9


@each_loss
def test_time_is_that_of_the_readme(name):
    (row,) = (line for line in text("README.md").splitlines() if f"`F.{name}` " in line)
    time = row.split(" | ")[2].partition(" time")[0]
    assert TABLE[name]["time"] == re.sub(r"^O\((.*)\)$", r"\1", time)


@each_loss
def test_second_derivatives(name):
    def twice(**options):
        z = draw(ROWS, WIDTH).requires_grad_()
        value = evaluate(name, z, draw(ROWS, WIDTH), **options)
        (slope,) = torch.autograd.grad(value, z, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), z)
        return bool(second.isfinite().all() and second.abs().max() > 0)

    if TABLE[name]["twice"] == "yes":
        assert twice()
        return
    with pytest.raises(RuntimeError):
        twice()
    assert (TABLE[name]["twice"] == "some") == (name in TWICE)
    if name in TWICE:
        assert twice(**TWICE[name])


@each_loss
def test_what_is_exchanged(name):
    function = getattr(F, name)
    hints = get_type_hints(function)
    assert "group" in hints
    ways = {way for part in get_args(hints.get("exchange")) for way in get_args(part)}
    expected = {
        frozenset({"gather", "ring"}): {"rows"},
        frozenset({"gather", "statistics"}): {"moments"},
        frozenset(): {"rows", "moments", "one sum"},
    }
    assert TABLE[name]["exchanged"] in expected[frozenset(ways)]
