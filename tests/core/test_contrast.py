"""The engine of contrastive losses: tiles and strips against plain autograd.

What no loss asks for yet is tested here: columns beyond the rows (M > N), with masks of
their own.
"""

from itertools import product

import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import normalize as normalize_rows
from torch.utils._python_dispatch import TorchDispatchMode

import xmodal_losses.functional as F
from counting import Work
from tolerances import SAME
from xmodal_losses._core import precision
from xmodal_losses._core.pairs.left_out import LeftOut
from xmodal_losses._core.pairs.log_sum_exp import Sides, Slopes, sides
from xmodal_losses._core.pairs.logits import Plan
from xmodal_losses._core.pairs.measures import Measures
from xmodal_losses._core.pairs.one_pass import weighted_sum
from xmodal_losses._core.pairs.tiles import Tiling, square, strips

GROUPS, N, M, D = 3, 7, 11, 4


def _batches(scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(GROUPS, N, D, generator=generator, dtype=torch.float64)
    y = torch.randn(GROUPS, M, D, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), y.requires_grad_()


def _left_out(kind, seed=1, m=M):
    g = torch.Generator().manual_seed(seed)
    if kind == "none":
        return LeftOut()
    dense = torch.rand(GROUPS, N, m, generator=g) < 0.3
    dense[0, 0] = True  # a row without negatives
    vectors = {
        "ids": torch.randint(3, (GROUPS, N), generator=g),
        "ids_y": torch.randint(3, (GROUPS, m), generator=g),
        "positions": torch.rand(GROUPS, N, 2, generator=g),
        "positions_y": torch.rand(GROUPS, m, 2, generator=g),
        "valid": torch.rand(GROUPS, N, generator=g) < 0.8,
        "valid_y": torch.rand(GROUPS, m, generator=g) < 0.8,
        "radius": 0.3,
    }
    return {
        "dense": LeftOut(dense=dense),
        "vectors": LeftOut(**vectors),
        "both": LeftOut(dense=dense, **vectors),
    }[kind]


def _plainly(x, y, left_out, measured=False):
    """Return the sides, by the shortest way."""
    logits = x @ y.mT
    out = torch.eye(N, y.shape[1], dtype=torch.bool).expand_as(logits).clone()
    if left_out.dense is not None:
        out |= left_out.dense
    if left_out.ids is not None:
        out |= left_out.ids[:, :, None] == left_out.ids_y[:, None]
        gap = left_out.positions[:, :, None] - left_out.positions_y[:, None]
        distance = gap.abs().amax(-1)
        out |= distance <= left_out.radius
        out |= ~left_out.valid[:, :, None] | ~left_out.valid_y[:, None]
    finite = torch.where(out, -1e4, logits)  # whose log-sum-exp has gradients
    positive = logits.diagonal(dim1=1, dim2=2)
    logs = [
        torch.where(out.all(dim), -torch.inf, finite.logsumexp(dim)) for dim in (-1, -2)
    ]
    if not measured:
        return Sides(positive, *logs)
    measures = [
        Measures(
            ((logits >= positive.unsqueeze(dim)) & ~out).sum(dim),
            (~out).sum(dim),
            logits.masked_fill(out, 0.0).sum(dim),
            torch.where(out, -torch.inf, 2 * logits).logsumexp(dim),
        )
        for dim in (-1, -2)
    ]
    return Sides(positive, *logs, *measures)


def _row_loss(found):
    """A made-up loss with different slopes in everything: Σ σ(lse) − tanh(positive)."""
    rows = found.rows.sigmoid()
    loss, slope = rows - found.positive.tanh(), rows * (1 - rows)
    columns = None
    if found.columns is not None:
        # Rectangular problems have columns without a row: each row pays for its own.
        own = found.columns[:, :N].sigmoid()
        loss = loss + 2 * own
        columns = 2 * own * (1 - own)
        columns = torch.nn.functional.pad(columns, (0, found.columns.shape[1] - N))
    return loss, Slopes(found.positive.tanh().square() - 1, slope, columns)


SCALES = [(1.0, True), (1.0, False), (30.0, False)]  # logits beyond the bound
TILINGS = [Tiling(1, 1, 1), Tiling(2, 3, 4), Tiling(3, 4, 11), Tiling(1, 7, 5)]


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
@pytest.mark.parametrize(("scale", "bounded"), SCALES)
@pytest.mark.parametrize(
    ("mask", "both"), list(product(("none", "dense", "vectors", "both"), (True, False)))
)
def test_two_passes(mask, both, bounded, scale, tiling):
    x, y = _batches(scale)
    left_out = _left_out(mask)
    expected = _plainly(x, y, left_out)
    found = sides(x, y, left_out, Plan(tiling, both, bounded))
    if not both:
        expected = expected._replace(columns=None)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_allclose(ours.detach(), theirs.detach(), **SAME)
    _assert_same_gradients(found, expected, x, y, scale)


def _assert_same_gradients(found, expected, x, y, scale):
    ours, theirs = (
        torch.autograd.grad(_row_loss(side)[0].square().sum(), (x, y))
        for side in (found, expected)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert_allclose(a, b, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.parametrize("edge", [1, 2, 3, N])
@pytest.mark.parametrize("groups", [1, 2, GROUPS])
@pytest.mark.parametrize(("scale", "bounded"), SCALES)
@pytest.mark.parametrize("mask", ["none", "dense", "vectors", "both"])
def test_measures(mask, bounded, scale, groups, edge):
    """They come beside the sides and their gradients, and have none."""
    x, y = _batches(scale)
    y = y.detach()[:, :N].contiguous().requires_grad_()
    left_out = _left_out(mask, m=N)
    expected = _plainly(x, y, left_out, measured=True)
    plan = Plan(Tiling(groups, edge, edge), True, bounded, measured=True)
    found = sides(x, y, left_out, plan)
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        assert_allclose(ours.detach(), theirs.detach(), **SAME)
    for ours, theirs in zip(found[3:], expected[3:], strict=True):
        for name, one, other in zip(ours._fields, ours, theirs, strict=True):
            assert not one.requires_grad
            assert one.dtype == other.dtype, name
            assert_allclose(one, other.detach(), **SAME, err_msg=name)
    _assert_same_gradients(found, expected, x, y, scale)


@pytest.mark.parametrize("rows", [1, 3, N])
@pytest.mark.parametrize(("scale", "bounded"), SCALES)
@pytest.mark.parametrize("mask", ["none", "dense", "vectors"])
@pytest.mark.parametrize("normalize", [False, True])
def test_one_pass_over_strips_of_rows(normalize, mask, bounded, scale, rows):
    x, y = _batches(scale)
    left_out = _left_out(mask)
    share = torch.rand(GROUPS, N, dtype=torch.float64).requires_grad_()
    plan = Plan(Tiling(1 if rows < N else 2, rows, M), both=False, bounded=bounded)
    lengths, u, v = None, x, y
    if normalize:
        lengths = scale, 1.0
        u, v = scale * normalize_rows(x, dim=-1), normalize_rows(y, dim=-1)
    expected = _plainly(u, v, left_out)._replace(columns=None)
    results = []
    for value in (
        weighted_sum(_row_loss, x, y, GROUPS, share, 1.0, lengths, left_out, plan),
        (share * _row_loss(expected)[0]).sum(),
    ):
        grads = torch.autograd.grad(value, (x, y, share))
        results.append((value.detach(), *grads))
    for a, b in zip(*results, strict=True):
        assert_allclose(a, b, rtol=1e-12, atol=1e-12 * scale)


class _IntoFloat32(TorchDispatchMode):
    """Has everywhere the products of 16-bit matrices into float32 that CUDA has."""

    def __init__(self):
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if func in (aten.bmm.dtype, aten.baddbmm.dtype):
            *tensors, dtype = args
            assert [t.dtype for t in tensors[-2:]] == [torch.bfloat16] * 2
            assert dtype == torch.float32
            self.products += 1
            return func.overloadpacket(*(t.float() for t in tensors))
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(
    not hasattr(torch.ops.aten.mm, "dtype"), reason="torch has no such product"
)
@pytest.mark.parametrize(
    "options", [{}, {"chunk_size": 8}, {"symmetric": False}], ids=str
)
def test_narrow_products_round_their_operands_and_nothing_else(options, monkeypatch):
    z = [z.detach()[:, :N].bfloat16().requires_grad_() for z in _batches()]
    wide = [z.detach().double().requires_grad_() for z in z]

    def value_and_gradients(z):
        value = F.info_nce(*z, negatives="all", **options)
        first = torch.autograd.grad(value, z, retain_graph=True)
        again = torch.autograd.grad(value, z, create_graph=True)
        second = torch.autograd.grad(again[0].double().square().sum(), z)
        return value.detach(), *first, *second

    expected, *expected_grads = value_and_gradients(wide)
    monkeypatch.setattr(precision, "narrow_products", lambda *_: True)
    with _IntoFloat32() as mode:
        value, *grads = value_and_gradients(z)
    assert mode.products > 2
    # Logits up to 14, of operands with 8 bits.
    assert_allclose(value, expected, rtol=5e-3)
    for a, b in zip(grads, expected_grads, strict=True):
        assert (a - b).norm() < 3e-2 * b.norm()


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("kind", ["two passes", "one pass", "one pass, unit rows"])
def test_second_derivatives(kind, bounded):
    x, y = (z.detach()[:2, :3, :2].contiguous().requires_grad_() for z in _batches())
    share = torch.rand(2, 3, dtype=torch.float64).requires_grad_()

    def one_pass(x, y, share):
        plan = Plan(Tiling(1, 3, 3), both=True, bounded=bounded)
        lengths = (2.0, 1.0) if "unit" in kind else None
        return weighted_sum(_small_loss, x, y, 2, share, 1.0, lengths, LeftOut(), plan)

    def two_passes(x, y, share):
        plan = Plan(Tiling(1, 2, 2), both=True, bounded=bounded)
        return share * _small_loss(sides(x, y, LeftOut(), plan))[0]

    f = two_passes if kind == "two passes" else one_pass
    assert gradcheck(f, (x, y, share))
    assert gradgradcheck(f, (x, y, share))


def _small_loss(found):
    gap = found.rows + 2 * found.columns - 3 * found.positive
    slope = 2 * gap
    return gap.square(), Slopes(-3 * slope, slope, 2 * slope)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 3),  # whole: value and gradient from one set of logits
        ({"chunk_size": 8}, 4),  # two passes
        ({"chunk_size": 16, "symmetric": False}, 3),  # strips of rows
        ({"reduction": "none"}, 4),
    ],
    ids=str,
)
def test_products(options, expected):
    """In units of N·M·D multiply-adds, forward and backward."""
    z_a, z_b = (torch.randn(32, 3).requires_grad_() for _ in range(2))
    with Work() as work:
        F.info_nce(z_a, z_b, **options).sum().backward()
    assert work.multiply_adds == expected * 32 * 32 * 3


def test_products_one_side():
    z_a, z_b = torch.randn(32, 3).requires_grad_(), torch.randn(32, 3)
    with Work() as work:
        F.info_nce(z_a, z_b).backward()
    assert work.multiply_adds == 2 * 32 * 32 * 3
    with Work() as work:
        F.info_nce(z_a, z_b, chunk_size=8).backward()
    assert work.multiply_adds == 3 * 32 * 32 * 3


def test_cross_costs_a_group_and_a_row():
    """B·P·(B + P) logits, not (B·P)²."""
    b, p, d = 6, 9, 3
    z_a, z_b = (torch.randn(b, p, d).requires_grad_() for _ in range(2))
    with Work() as work:
        F.info_nce(z_a, z_b, negatives="cross").backward()
    assert work.multiply_adds == 4 * b * p * (b + p) * d
    assert work.largest <= max(b * p * d, b * p * (b + p))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_tensor_is_larger_than_tiles_and_inputs(symmetric, reduction):
    n, d, chunk = 96, 3, 8
    z_a, z_b = (torch.randn(n, d).requires_grad_() for _ in range(2))
    told = {
        "ids": torch.arange(n) // 2,
        "positions": torch.rand(n, 2),
        "exclude_radius": 0.1,
        "weight": torch.rand(n),
    }
    with Work() as work:
        value = F.info_nce(
            z_a, z_b, symmetric=symmetric, reduction=reduction, chunk_size=chunk, **told
        )
        value.sum().backward()
    # A strip may be four tiles large.
    assert work.largest <= max(n * d, 4 * chunk**2)


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
def test_what_is_measured_costs_no_product_and_no_matrix(negatives):
    b, n, d, chunk = 2, 48, 3, 8
    z_a, z_b = (torch.randn(b, n, d).requires_grad_() for _ in range(2))
    options = {"negatives": negatives, "chunk_size": chunk}
    with Work() as plain:
        F.info_nce(z_a, z_b, reduction="none", **options).sum().backward()
    with Work() as work:
        terms = F.info_nce_terms(z_a, z_b, **options)
        terms.summary(temperature=0.07)
        (terms.a_to_b + terms.b_to_a).backward()
    assert work.multiply_adds == plain.multiply_adds
    assert work.largest <= max(b * n * d, chunk**2)


def test_the_same_twice():
    """Sums have one order: no atomics, no dependence on what ran before."""
    z_a, z_b = (torch.randn(70, 5).requires_grad_() for _ in range(2))
    runs = [
        torch.autograd.grad(F.info_nce(z_a, z_b, chunk_size=16), (z_a, z_b))
        for _ in range(2)
    ]
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_autocast_around_the_backward_pass(chunk_size):
    """Products of the backward pass keep their dtype, too."""
    z_a, z_b = (torch.randn(12, 8).requires_grad_() for _ in range(2))
    plain = torch.autograd.grad(F.info_nce(z_a, z_b, chunk_size=chunk_size), (z_a, z_b))
    with torch.autocast("cpu", torch.bfloat16):
        value = F.info_nce(z_a, z_b, chunk_size=chunk_size)
        inside = torch.autograd.grad(value, (z_a, z_b))
    for first, second in zip(plain, inside, strict=True):
        assert torch.equal(first, second)


def test_tiles_cover_the_matrix_once():
    like = torch.zeros(1)
    for n, m, chunk in product((1, 5, 64), (1, 7, 64, 100), (1, 3, 8, None)):
        tiling = square(n, m, chunk, like)
        rows = [i for part in tiling.over_rows(n) for i in range(part.start, part.stop)]
        columns = [
            j for part in tiling.over_columns(m) for j in range(part.start, part.stop)
        ]
        assert rows == list(range(n))
        assert columns == list(range(m))
        if chunk is not None:
            assert tiling.rows * tiling.columns * tiling.groups <= max(
                chunk**2, tiling.rows * tiling.columns
            )


def test_strips_hold_what_a_row_depends_on():
    like = torch.zeros(1)
    assert strips(8, 8, True, 8, like).rows == 8
    assert strips(8, 100, True, 4, like) is None  # a whole problem would not fit
    assert strips(1000, 1000, False, 100, like) == Tiling(1, 40, 1000)
    assert strips(1000, 100_000, False, 100, like) is None  # too flat to pay
