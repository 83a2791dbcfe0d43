"""Similarity preservation: closed forms, what is constant, tiles, and work."""

import functools
import math

import pytest
import torch
import torch.nn.functional as nnf
from numpy.testing import assert_allclose
from torch.autograd import grad, gradgradcheck

import xmodal_losses.functional as F
from counting import Work
from harness import two_samples, with_grad
from tolerances import SAME

loss = F.similarity_preservation
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def _angles(*degrees):
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack((radians.cos(), radians.sin()), -1)


def _dense(z_a, z_b, *, gamma=0.0, detach_target=True, weight=None):
    """The definition, by autograd on N×N matrices."""
    a, b = nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1)
    target = (a @ a.mT + b @ b.mT) / 2
    gap = a @ b.mT - (target.detach() if detach_target else target)
    penalty = gap.abs() ** gamma * gap.square()
    w = torch.ones_like(z_a[..., 0]) if weight is None else weight
    w = w / w.sum(-1, keepdim=True)
    return (w.unsqueeze(-1) * penalty * w.unsqueeze(-2)).sum((-2, -1))


def test_two_pairs_in_the_plane():
    """Cosines of differences of angles, longer rows or shorter."""
    z_a, z_b = 3 * _angles(0, 90), 0.2 * _angles(30, 90)
    c = math.cos(math.radians(30))
    s_aa, s_bb, s_ab = [[1, 0], [0, 1]], [[1, 0.5], [0.5, 1]], [[c, 0], [0.5, 1]]
    gaps = [
        s_ab[i][j] - (s_aa[i][j] + s_bb[i][j]) / 2 for i in range(2) for j in range(2)
    ]
    for gamma in (0.0, 0.5, 2.0):
        expected = sum(abs(gap) ** (2 + gamma) for gap in gaps) / 4
        assert_allclose(loss(z_a, z_b, gamma=gamma), expected, **EXACT)


def test_one_pair_is_the_cosine_alone():
    assert_allclose(loss(_angles(10), _angles(70)), 0.25, **EXACT)


def test_equal_directions_are_exactly_zero():
    z, _ = two_samples((9, 9), dim=7)
    z = z.float()
    for other in (z, 4 * z):
        value, *grads = with_grad(loss, z, other)
        assert value == 0
        assert all((g == 0).all() for g in grads)


def test_a_zero_row_is_like_no_row():
    z_a, z_b = _angles(0, 90), _angles(0, 90)
    z_a[1] = 0
    # Of (1, 1) the target is ½; the rest agrees.
    value, grad_a, _ = with_grad(loss, z_a, z_b)
    assert_allclose(value, 0.25 / 4, **EXACT)
    assert (grad_a[1] == 0).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("detach_target", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_first_and_second_derivatives_are_those_of_the_definition(
    gamma, detach_target, weighted
):
    """Also where the target is a constant, to the second derivative as well."""
    views = [z.requires_grad_() for z in two_samples((6, 6), lead=(2,))]
    options = {"gamma": gamma, "detach_target": detach_target}
    if weighted:
        options["weight"] = torch.rand(2, 6, dtype=torch.float64) + 0.1
    generator = torch.Generator().manual_seed(1)
    cotangent, *directions = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((2,), *(z.shape for z in views))
    )
    results = []
    for spelling in (
        functools.partial(loss, reduction="none"),
        functools.partial(loss, reduction="none", chunk_size=2),
        _dense,
    ):
        values = spelling(*views, **options)
        first = grad((cotangent * values).sum(), views, create_graph=True)
        along = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
        second = grad(along, views)
        results.append([t.detach() for t in (values, *first, *second)])
    whole, tiled, expected = results
    for one, two, three in zip(whole, tiled, expected, strict=True):
        assert_allclose(two, one, **SAME)
        assert_allclose(one, three, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_a_constant_weight_has_the_same_gradient_but_for_a_factor(gamma):
    z_a, z_b = two_samples((5, 5))
    _, *ours = with_grad(functools.partial(loss, gamma=gamma), z_a, z_b)

    def constant(z_a, z_b):
        a, b = nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1)
        gap = a @ b.mT - (a @ a.mT + b @ b.mT).detach() / 2
        return (gap.detach().abs() ** gamma * gap.square()).mean()

    _, *theirs = with_grad(constant, z_a, z_b)
    for one, other in zip(ours, theirs, strict=True):
        assert_allclose(one, (2 + gamma) / 2 * other, rtol=1e-10, atol=1e-13)


def test_second_derivatives_where_a_gap_is_zero():
    """|Δ|^γ has no derivative there; what it is multiplied with is 0."""
    z = torch.eye(3, dtype=torch.float64, requires_grad=True)
    other = z.detach().clone().requires_grad_()
    for gamma in (0.0, 0.5, 1.0):
        value = loss(z, other, gamma=gamma, detach_target=False)
        (first,) = grad(value, z, create_graph=True)
        assert all(g.isfinite().all() for g in grad(first.sum(), (z, other)))
    views = [z.requires_grad_() for z in two_samples((4, 4), dim=2)]
    assert gradgradcheck(
        functools.partial(loss, chunk_size=3, gamma=1.5, detach_target=False), views
    )


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_tiles_change_nothing(chunk_size, lead):
    views = two_samples((7, 7), lead=lead)
    weight = torch.rand(*lead, 7, dtype=torch.float64)
    for options in ({}, {"gamma": 1.0, "detach_target": False}, {"weight": weight}):
        whole, tiled = (
            with_grad(functools.partial(loss, chunk_size=chunk, **options), *views)
            for chunk in (None, chunk_size)
        )
        for one, other in zip(whole, tiled, strict=True):
            assert_allclose(other, one, **SAME)


def _work(n, d, chunk, need, **options):
    views = [torch.randn(n, d).requires_grad_(wanted) for wanted in need]
    with Work() as work:
        value = loss(*views, chunk_size=chunk, **options)
        if any(need):
            value.backward()
    return work


def test_work_and_memory():
    """N²D multiply-adds: two for the value, one for a gradient; tiles of memory."""
    n, d, chunk = 96, 5, 8
    both = _work(n, d, chunk, (True, True))
    assert both.multiply_adds == 4 * n * n * d
    assert both.largest <= max(2 * n * d, chunk**2)
    assert _work(n, d, chunk, (True, False)).multiply_adds == 3 * n * n * d
    assert _work(n, d, chunk, (False, False)).multiply_adds == 2 * n * n * d
    through = _work(n, d, chunk, (True, False), detach_target=False)
    assert through.multiply_adds == 6 * n * n * d
