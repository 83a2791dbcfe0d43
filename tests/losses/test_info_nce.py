"""InfoNCE: closed forms, torch's own cross-entropies, chunks, saturation, masks."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from harness import Case, to_torch
from specs import BY_NAME
from tolerances import SAME

SPEC = BY_NAME["info_nce"]


def _pair(rows=8, dim=5, lead=(), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, *lead, rows, dim)
    z_a, noise = torch.randn(shape, generator=generator, dtype=dtype)
    return z_a.requires_grad_(), (z_a + noise).detach().requires_grad_()


def _with_grad(loss, z_a, z_b, upstream=None):
    value = loss(z_a, z_b)
    upstream = torch.ones_like(value) if upstream is None else upstream
    return value.detach(), *torch.autograd.grad(value, (z_a, z_b), upstream)


def _assert_same(first, second, **tolerance):
    for x, y in zip(first, second, strict=True):
        assert_allclose(x, y, **(tolerance or SAME))


# Closed forms --------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("z_b", "expected"),
    [
        (np.eye(2), math.log1p(math.exp(-1))),  # 0.313261687518
        (np.eye(2)[::-1], math.log1p(math.e)),  # 1.313261687518
        (-np.eye(2), math.log1p(math.e)),
    ],
)
def test_two_orthonormal_pairs(z_b, expected, symmetric):
    z_a, z_b = torch.eye(2, dtype=torch.float64), torch.tensor(z_b.copy())
    value = F.info_nce(z_a, z_b, temperature=1.0, symmetric=symmetric)
    assert_allclose(value, expected, rtol=1e-14)


@pytest.mark.parametrize("rows", [2, 5, 32])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_orthonormal_pairs(rows, temperature):
    """Every positive has similarity 1, every negative 0: log(1 + (N-1)e^(-1/τ))."""
    z = torch.eye(rows, dtype=torch.float64)
    value = F.info_nce(z, 3 * z, temperature=temperature)
    expected = math.log1p((rows - 1) * math.exp(-1 / temperature))
    assert_allclose(value, expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("negatives", "count"), [("group", 5), ("all", 14), ("cross", 4 + 2)]
)
def test_equal_embeddings_give_the_log_of_the_candidates(negatives, count):
    z = torch.ones(3, 5, 4, dtype=torch.float64)
    value = F.info_nce(z, z, negatives=negatives)
    candidates = count if negatives == "group" else count + 1
    assert_allclose(value, math.log(candidates), rtol=1e-13)


def test_views_orthogonal_to_each_other():
    z_a = torch.eye(4, dtype=torch.float64)[:, :2].repeat(1, 2)[:2]
    z_b = z_a * torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    assert_allclose(F.info_nce(z_a, z_b), math.log(2), rtol=1e-14)


def test_one_pair_has_nothing_to_lose():
    z_a, z_b = _pair(rows=1)
    value, *grads = _with_grad(F.info_nce, z_a, z_b)
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("copies", [2, 3, 5])
def test_duplicates_leave_a_floor(copies):
    """A pair that occurs k times is its own negative k - 1 times: log k remains."""
    z = torch.eye(4, dtype=torch.float64).repeat_interleave(copies, 0)
    value = F.info_nce(z, z, temperature=0.01)
    assert_allclose(value, math.log(copies), rtol=1e-13)


def test_duplicates_that_are_excluded_leave_none():
    z = torch.eye(4, dtype=torch.float64).repeat_interleave(2, 0)
    value = F.info_nce(z, z, temperature=0.05, exclude=z @ z.T > 0.5)
    assert_allclose(value, math.log1p(6 * math.exp(-20)), rtol=1e-13)


# Torch's own ---------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_equals_cross_entropy(reduction, temperature):
    z_a, z_b = _pair()

    def one_way(z_a, z_b):
        logits = nnf.normalize(z_a, dim=-1) @ nnf.normalize(z_b, dim=-1).mT
        target = torch.arange(len(z_a))
        return nnf.cross_entropy(logits / temperature, target, reduction=reduction)

    options = {"temperature": temperature, "reduction": reduction}
    upstream = torch.rand((8,) if reduction == "none" else ()).double()
    both = _with_grad(lambda a, b: F.info_nce(a, b, **options), z_a, z_b, upstream)
    expected = _with_grad(
        lambda a, b: (one_way(a, b) + one_way(b, a)) / 2, z_a, z_b, upstream
    )
    _assert_same(both, expected)
    options["symmetric"] = False
    forward = _with_grad(lambda a, b: F.info_nce(a, b, **options), z_a, z_b, upstream)
    _assert_same(forward, _with_grad(one_way, z_a, z_b, upstream))


@pytest.mark.skipif(
    not hasattr(nnf, "linear_cross_entropy"), reason="torch < 2.13 has none"
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_linear_cross_entropy(reduction):
    """The chunked cross-entropy of torch: logits are never formed there either."""
    z_a, z_b = _pair(rows=12)
    tau, target = 0.1, torch.arange(12)
    options = torch.nn.LinearCrossEntropyOptions(
        batch_chunk_size=4, chunking_method=None
    )

    def oracle(z_a, z_b):
        return nnf.linear_cross_entropy(
            z_a / tau, z_b, target, reduction=reduction, options=options
        )

    def ours(z_a, z_b):
        return F.info_nce(
            z_a,
            z_b,
            temperature=tau,
            normalize=False,
            symmetric=False,
            reduction=reduction,
            chunk_size=5,
        )

    z_b_scaled = (0.3 * z_b).detach().requires_grad_()
    _assert_same(
        _with_grad(ours, z_a, z_b_scaled),
        _with_grad(oracle, z_a, z_b_scaled),
        rtol=1e-11,
        atol=1e-12,
    )


def test_normalize_is_normalize():
    z_a, z_b = _pair()
    unit_a, unit_b = nnf.normalize(z_a, dim=-1), nnf.normalize(z_b, dim=-1)
    value = F.info_nce(unit_a, unit_b, normalize=False)
    assert_allclose(value.detach(), F.info_nce(z_a, z_b).detach(), rtol=1e-13)


# Topologies ----------------------------------------------------------------------


def test_all_is_one_big_group():
    z_a, z_b = _pair(rows=4, lead=(3,))
    flat = _with_grad(
        lambda a, b: F.info_nce(a.flatten(0, 1), b.flatten(0, 1)), z_a, z_b
    )
    _assert_same(
        _with_grad(lambda a, b: F.info_nce(a, b, negatives="all"), z_a, z_b), flat
    )


def test_cross_is_the_big_group_with_exclusions():
    z_a, z_b = _pair(rows=4, lead=(3,))
    group, row = torch.arange(12) // 4, torch.arange(12) % 4
    other = (group[:, None] != group) & (row[:, None] != row)
    flat = _with_grad(
        lambda a, b: F.info_nce(a.flatten(0, 1), b.flatten(0, 1), exclude=other),
        z_a,
        z_b,
    )
    _assert_same(
        _with_grad(lambda a, b: F.info_nce(a, b, negatives="cross"), z_a, z_b), flat
    )


def test_topologies_agree_on_a_single_group():
    z_a, z_b = _pair(lead=(1,))
    values = [
        F.info_nce(z_a, z_b, negatives=n).detach() for n in ("group", "all", "cross")
    ]
    assert_allclose(values[1:], values[0], rtol=1e-13)


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
def test_excluded_pairs_get_no_gradient(negatives):
    """Moving b_j changes nothing for the rows that exclude it."""
    z_a, z_b = _pair(rows=4, lead=(2,))
    exclude = torch.zeros(2, 4, 4, dtype=torch.bool)
    exclude[0, 1, 2] = True
    values = F.info_nce(
        z_a,
        z_b,
        exclude=exclude,
        negatives=negatives,
        symmetric=False,
        reduction="none",
    )
    (grad,) = torch.autograd.grad(values[0, 1], z_b, retain_graph=True)
    assert (grad[0, 2] == 0).all()
    assert (grad[0, 3] != 0).any()
    (grad,) = torch.autograd.grad(values[0, 0], z_b)
    assert (grad[0, 2] != 0).any()


def test_the_diagonal_of_exclude_is_ignored():
    z_a, z_b = _pair()
    everything = torch.eye(8, dtype=torch.bool)
    _assert_same(
        _with_grad(lambda a, b: F.info_nce(a, b, exclude=everything), z_a, z_b),
        _with_grad(F.info_nce, z_a, z_b),
    )


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_without_negatives(dtype, chunk_size):
    z_a, z_b = _pair(dtype=dtype)
    exclude = torch.zeros(8, 8, dtype=torch.bool)
    exclude[3] = exclude[:, 3] = True
    values = F.info_nce(
        z_a, z_b, exclude=exclude, reduction="none", chunk_size=chunk_size
    )
    assert values[3] == 0
    grads = torch.autograd.grad(values.sum(), (z_a, z_b))
    for grad in grads:
        assert grad.isfinite().all()
        assert (grad[3] == 0).all()

    value, *grads = _with_grad(
        lambda a, b: F.info_nce(
            a, b, exclude=torch.ones_like(exclude), chunk_size=chunk_size
        ),
        z_a,
        z_b,
    )
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


# Masks told by vectors ----------------------------------------------------------------


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
def test_vectors_tell_what_a_matrix_does(negatives):
    """Positions within a group, and ids across groups, as one matrix of all rows."""
    z_a, z_b = _pair(rows=6, lead=(3,))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, (3, 6), generator=generator)
    positions = torch.rand(3, 6, 2, generator=generator)
    told = {"ids": ids, "positions": positions, "exclude_radius": 0.4}

    group, row = torch.arange(18) // 6, torch.arange(18) % 6
    same_group = group[:, None] == group
    flat = positions.reshape(18, 2).double()
    exclude = same_group & ((flat[:, None] - flat).abs().amax(-1) <= 0.4)
    exclude |= ids.reshape(-1, 1) == ids.reshape(-1)
    if negatives == "group":
        exclude |= ~same_group
    if negatives == "cross":
        exclude |= ~same_group & (row[:, None] != row)

    def matrix(a, b):
        return F.info_nce(a.flatten(0, 1), b.flatten(0, 1), exclude=exclude)

    _assert_same(
        _with_grad(
            lambda a, b: F.info_nce(a, b, negatives=negatives, **told), z_a, z_b
        ),
        _with_grad(matrix, z_a, z_b),
    )


def test_positions_may_be_integers():
    """A radius of 0 leaves out what is at the same place; differences do not wrap."""
    z_a, z_b = _pair(rows=4)
    positions = torch.tensor([[0, 0], [250, 3], [0, 0], [3, 250]], dtype=torch.uint8)
    exclude = torch.zeros(4, 4, dtype=torch.bool)
    exclude[0, 2] = exclude[2, 0] = True
    value = F.info_nce(z_a, z_b, positions=positions, exclude_radius=0.0)
    assert_allclose(value.detach(), F.info_nce(z_a, z_b, exclude=exclude).detach())


# Chunks --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 7, 64])
@pytest.mark.parametrize("temperature", [0.1, 0.01])  # with and without shared exps
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize(
    ("negatives", "symmetric", "masked", "weighted"),
    list(product(("group", "all", "cross"), *[(True, False)] * 3)),
)
def test_chunks_equal_dense(
    negatives, symmetric, masked, weighted, reduction, temperature, chunk_size, dtype
):
    """Tiles, strips of rows and whole problems: one value and one gradient."""
    masks = dict.fromkeys(("exclude", "ids", "positions"), masked)
    case = Case(rows=(7, 7), lead=(3,), weighted=weighted, **masks)
    inputs = SPEC.draw(case, seed=5)
    options = {
        "negatives": negatives,
        "symmetric": symmetric,
        "temperature": temperature,
        "exclude_radius": 0.2 if masked else None,
    }
    upstream = torch.rand(3, 7, dtype=torch.float64).to(dtype)
    results = []
    for chunk in (None, chunk_size):
        tensors = to_torch(inputs, dtype)
        values = SPEC(tensors, chunk_size=chunk, reduction=reduction, **options)
        (values * (upstream if reduction == "none" else 3.0)).sum().backward()
        results.append((values.detach(), tensors["z_a"].grad, tensors["z_b"].grad))
    tolerance = {"rtol": 1e-12, "atol": 1e-12 / temperature}
    if dtype == torch.float32:
        tolerance = {"rtol": 2e-5, "atol": 2e-6 / temperature}
    _assert_same(*results, **tolerance)


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gradient_of_a_temperature_tensor(chunk_size, symmetric):
    """ds = ⟨Z, dZ⟩/s: the temperature's gradient against differences."""
    z_a, z_b = _pair(lead=(2,))
    options = {"chunk_size": chunk_size, "symmetric": symmetric}
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    F.info_nce(z_a, z_b, temperature=tau, **options).backward()
    h = 1e-5
    ahead, behind = (
        F.info_nce(z_a, z_b, temperature=0.2 + step, **options).detach()
        for step in (h, -h)
    )
    assert_allclose(tau.grad, (ahead - behind) / (2 * h), rtol=1e-8)


# Saturation ----------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [15, 17, 20, 25, 30, 40])
def test_saturated_pairs_keep_value_and_gradient(gap, dtype, chunk_size):
    """cross_entropy returns exactly 0 for gaps ≥ 17 in float32; the loss must not.

    Two pairs with positive gap, negative 0: ℓ = log1p(e^-gap), dℓ/dgap = -σ(-gap).
    """
    root = math.sqrt(gap)
    z_a = (root * torch.eye(2, dtype=dtype)).requires_grad_()
    z_b = (root * torch.eye(2, dtype=dtype)).requires_grad_()
    value = F.info_nce(
        z_a, z_b, temperature=1.0, normalize=False, chunk_size=chunk_size
    )
    value.backward()
    exact_gap = float(z_a.detach()[0, 0].double() ** 2)
    tolerance = 1e-13 if dtype == torch.float64 else 40 * 2e-7
    assert_allclose(value.detach(), math.log1p(math.exp(-exact_gap)), rtol=tolerance)
    slope = math.exp(-exact_gap) / (1 + math.exp(-exact_gap))
    for grad in (z_a.grad, z_b.grad):
        on = -slope * root / 2
        assert_allclose(grad.diagonal(), [on, on], rtol=tolerance)
        assert_allclose(grad.fliplr().diagonal(), [-on, -on], rtol=tolerance)


@pytest.mark.parametrize("gap", [20, 40, 100, 500])
def test_opposed_pairs_cost_the_gap(gap):
    """The other side of the softplus: ℓ → gap, slope → 1."""
    root = math.sqrt(gap)
    z_a = (root * torch.eye(2)).requires_grad_()
    z_b = root * torch.eye(2).flipud()
    value = F.info_nce(z_a, z_b, temperature=1.0, normalize=False)
    value.backward()
    assert_allclose(value.detach(), gap, rtol=1e-6)
    assert_allclose(z_a.grad.abs(), torch.full((2, 2), root / 2), rtol=1e-5)


# Zero rows -----------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
def test_zero_rows_stay_zero_and_get_no_gradient(dtype, chunk_size):
    z_a, z_b = (z.detach().to(dtype) for z in _pair())
    z_a[2] = 0
    z_a.requires_grad_()
    z_b.requires_grad_()
    value = F.info_nce(z_a, z_b, chunk_size=chunk_size)
    value.backward()
    assert value.isfinite()
    assert (z_a.grad[2] == 0).all()
    for grad in (z_a.grad, z_b.grad):
        assert grad.isfinite().all()
        assert grad.abs().max() > 0
    z_a, z_b = (z.detach().double().numpy() for z in (z_a, z_b))
    assert_allclose(value.detach(), SPEC.reference(z_a, z_b), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15])
def test_direction_of_tiny_and_huge_rows_survives(size):
    z_a, z_b = _pair(dtype=torch.float32)
    expected = F.info_nce(z_a, z_b).detach()
    scaled = F.info_nce(size * z_a, size * z_b)
    assert_allclose(scaled.detach(), expected, rtol=1e-4)


# Weights -------------------------------------------------------------------------


def test_none_is_already_weighted():
    z_a, z_b = _pair()
    weight = torch.rand(8, dtype=torch.float64)
    weight[2] = 0
    values = F.info_nce(z_a, z_b, weight=weight, reduction="none").detach()
    assert values.shape == (8,)
    total = F.info_nce(z_a, z_b, weight=weight, reduction="sum").detach()
    mean = F.info_nce(z_a, z_b, weight=weight).detach()
    assert_allclose(values.sum(), total, rtol=1e-13)
    assert_allclose(total / weight.sum(), mean, rtol=1e-13)
    doubled = F.info_nce(z_a, z_b, weight=2 * weight, reduction="none").detach()
    assert_allclose(doubled, 2 * values, rtol=1e-13)
