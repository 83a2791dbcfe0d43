"""The terms of InfoNCE and their summary: ties, collapse, rows without negatives."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import xmodal_losses.functional as F
from harness import Case, to_torch
from reference import info_nce_terms as reference
from specs import BY_NAME
from tolerances import SAME, VALUE
from xmodal_losses._core import pairs
from xmodal_losses._core.pairs.tiles import square

SPEC = BY_NAME["info_nce"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SIDES = ("a_to_b", "b_to_a")


def _drawn(seed=3, rows=5, **flags):
    flags = {"weighted": True, "ids": True} | flags
    inputs = SPEC.draw(Case(rows=(rows, rows), lead=(3,), **flags), seed)
    if "ids" in inputs:
        inputs["ids"] += 3 * np.arange(3)[:, None]  # of other groups are others
    return inputs


def _random(rows, dim=5, lead=(), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, *lead, rows, dim)
    return torch.randn(shape, generator=generator, dtype=dtype).unbind(0)


# Against the loss and the reference ---------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_directions_are_the_one_directional_losses(negatives, chunk_size, reduction):
    options = {
        "negatives": negatives,
        "chunk_size": chunk_size,
        "reduction": reduction,
    }
    inputs = _drawn()
    results = []
    for terms in (True, False):
        some = to_torch(inputs)
        swapped = {**some, "z_a": some["z_b"], "z_b": some["z_a"]}
        if terms:
            values = F.info_nce_terms(**some, **options)[:2]
        else:
            values = [
                F.info_nce(**view, symmetric=False, **options)
                for view in (some, swapped)
            ]
        (values[0] + 2 * values[1]).sum().backward()
        views = (some["z_a"].grad, some["z_b"].grad)
        results.append([value.detach() for value in (*values, *views)])
    for ours, theirs in zip(*results, strict=True):
        assert_allclose(ours, theirs, **SAME)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_reductions_are_of_losses_and_accuracies(reduction):
    inputs = _drawn()
    terms = F.info_nce_terms(**to_torch(inputs, grad=False), reduction=reduction)
    expected = reference.info_nce_terms(**inputs, reduction=reduction)
    for term, value in zip(terms, expected, strict=True):
        assert_allclose(term, value, **VALUE)


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("temperature", [0.01, 0.4])  # saturated rows, and none
def test_summary(temperature, chunk_size, masked, weighted, negatives):
    flags = dict.fromkeys(("exclude", "ids", "positions"), masked)
    inputs = _drawn(weighted=weighted, **flags)
    options = {"negatives": negatives, "temperature": temperature}
    if masked:
        options["exclude_radius"] = 0.3
    tensors = to_torch(inputs)
    terms = F.info_nce_terms(**tensors, **options, chunk_size=chunk_size)
    found = terms.summary(
        temperature=temperature, weight=tensors.get("weight"), top=(1, 2, 4)
    )
    expected = reference.summary(**inputs, **options, top=(1, 2, 4))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert not value.requires_grad
        assert value.shape == ()
        assert_allclose(value, expected[name], **VALUE, err_msg=name)
    if reference.info_nce_terms(**inputs, **options)[9].max() > 0:
        saturated = [found[f"saturated_{side}"] for side in SIDES]
        assert (max(saturated) > 0) == (temperature < 0.1)  # the case is one


def test_summary_of_a_temperature_that_is_a_tensor():
    z_a, z_b = _random(6)
    temperature = torch.tensor(0.3, requires_grad=True)
    terms = F.info_nce_terms(z_a, z_b, temperature=temperature)
    found = terms.summary(temperature=temperature)
    expected = terms.summary(temperature=0.3)
    for name, value in found.items():
        assert not value.requires_grad
        assert value.dtype == torch.float64
        assert_allclose(value, expected[name], rtol=1e-7)


# Closed forms -------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 1, 4])
@pytest.mark.parametrize("temperature", [0.02, 0.04, 0.06, 0.5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_orthonormal_pairs(dtype, temperature, chunk_size):
    n = 6
    z = torch.eye(n, dtype=dtype)
    options = {"temperature": temperature, "chunk_size": chunk_size}
    terms = F.info_nce_terms(z, 3 * z, **options)
    wide = torch.promote_types(dtype, torch.float32)
    for side in "ab":
        effective = getattr(terms, f"effective_negatives_{side}")
        assert effective.dtype == getattr(terms, f"negative_{side}").dtype == wide
        assert_allclose(effective, n - 1, rtol=1e-6)
        assert (getattr(terms, f"negative_{side}") == 0).all()
        assert (getattr(terms, f"count_{side}") == n - 1).all()
    assert terms.count_a.dtype == terms.rank_a_to_b.dtype == torch.int64
    assert (terms.rank_a_to_b == 0).all()
    assert (terms.rank_b_to_a == 0).all()
    found = terms.summary(temperature=temperature)
    assert found["top_1_a_to_b"].dtype == wide
    assert_allclose(found["positive_similarity"], 1, rtol=1e-6)
    saturated = math.log(n - 1) - 1 / temperature < -17
    assert found["saturated_a_to_b"] == found["saturated_b_to_a"] == saturated


def test_the_partner_comes_last():
    z = torch.eye(6)
    terms = F.info_nce_terms(z, z.roll(1, 0) - 2 * z, temperature=1.0)
    assert (terms.rank_a_to_b == 5).all()
    found = terms.summary(temperature=1.0, top=(5, 6))
    assert found["top_5_a_to_b"] == found["top_5_b_to_a"] == 0
    assert found["top_6_a_to_b"] == found["top_6_b_to_a"] == 1


def test_one_negative_is_near():
    """Its similarity is that of the partner, all others are orthogonal."""
    z_a, z_b = torch.eye(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64)
    z_b[1] = z_a[0]
    terms = F.info_nce_terms(z_a, z_b, temperature=0.05)
    assert_allclose(terms.effective_negatives_a[0], 1.0, rtol=1e-6)
    assert terms.rank_a_to_b.tolist() == [1, 6 + 1, 0, 0, 0, 0, 0, 0]
    assert terms.rank_b_to_a.tolist() == [0, 7, 0, 0, 0, 0, 0, 0]
    share = 1 / (math.exp(20) + 6)  # of each of the others
    effective = 1 / ((math.exp(20) * share) ** 2 + 6 * share**2)
    assert_allclose(terms.effective_negatives_a[0], effective, rtol=1e-12)
    assert_allclose(terms.negative_a[0], 20 / 7, rtol=1e-12)


# Ties ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("chunk_size", [None, 8])
@pytest.mark.parametrize("temperature", [0.01, 0.07])
@pytest.mark.parametrize(("rows", "dim"), [(6, 4), (17, 129), (40, 512)])
def test_collapsed_embeddings_find_nothing(rows, dim, temperature, chunk_size, dtype):
    """Whatever order the products were added up in."""
    one, other = _random(1, dim, dtype=torch.float64)
    lengths = 2.0 ** torch.arange(rows)[:, None].remainder(5)  # exact in every dtype
    z_a, z_b = ((lengths * z).to(dtype) for z in (one, one + other))
    options = {"temperature": temperature, "chunk_size": chunk_size}
    for normalize in (True, False):
        if not normalize:
            z_a, z_b = z_a / lengths.to(dtype), z_b / lengths.to(dtype)
        terms = F.info_nce_terms(z_a, z_b, normalize=normalize, **options)
        assert terms.accuracy_a_to_b == terms.accuracy_b_to_a == 0
        assert (terms.rank_a_to_b == rows - 1).all()
        assert (terms.rank_b_to_a == rows - 1).all()
        if normalize:
            effective = torch.cat(
                (terms.effective_negatives_a, terms.effective_negatives_b)
            )
            assert (effective <= rows - 1).all()
            assert_allclose(effective, rows - 1, rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_duplicates_are_ties(chunk_size, negatives, dtype):
    """A pair that occurs three times has two rivals, in its group or in others."""
    z, _ = _random(6, 200, dtype=torch.float64)
    rows = z.repeat_interleave(3, 0).to(dtype)  # in one group
    found = {"group": (2, 0), "all": (2, 2), "cross": (2, 2)}[negatives]
    options = {"negatives": negatives, "chunk_size": chunk_size}
    terms = F.info_nce_terms(rows[None], rows[None], **options)
    assert (terms.rank_a_to_b == found[0]).all()
    assert (terms.rank_b_to_a == found[0]).all()
    groups = z.expand(3, 6, 200).to(dtype)  # the same row of all groups
    terms = F.info_nce_terms(groups, groups, **options)
    assert (terms.rank_a_to_b == found[1]).all()
    assert (terms.rank_b_to_a == found[1]).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_zero_row_is_like_no_row_and_like_all(dtype):
    z = torch.eye(5, dtype=dtype)
    z[2] = 0
    terms = F.info_nce_terms(z, z)
    assert terms.rank_a_to_b.tolist() == terms.rank_b_to_a.tolist() == [0, 0, 4, 0, 0]


def test_what_is_beyond_rounding_is_no_tie():
    z = torch.eye(4, dtype=torch.float64)
    for gap, rank in ((1e-12, 0), (1e-17, 1)):
        z_b = z.clone()
        z_b[1] = z[0] * (1 - gap)
        terms = F.info_nce_terms(z, z_b, normalize=False, temperature=1.0)
        assert terms.rank_a_to_b[0] == rank


# Rows that are not there --------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.01, 0.07])
def test_rows_without_negatives(temperature):
    z_a, z_b = (z.requires_grad_() for z in _random(4))
    ids = torch.tensor([0, 0, 0, 0])
    one = F.info_nce_terms(z_a[:1], z_b[:1], temperature=temperature)
    same = F.info_nce_terms(z_a, z_b, ids=ids, temperature=temperature)
    for terms in (one, same):
        for name in ("rank_a_to_b", "count_a", "negative_a", "effective_negatives_a"):
            assert (getattr(terms, name) == 0).all(), name
        assert (terms.log_sum_exp_a == -torch.inf).all()
        (terms.a_to_b + terms.b_to_a).backward()
        found = terms.summary(temperature=temperature)
        for side in SIDES:
            assert found.pop(f"top_1_{side}") == found.pop(f"top_5_{side}") == 1
        assert found.pop("positive_similarity").isfinite()
        assert all(value == 0 for value in found.values())
    assert (z_a.grad == 0).all()


def test_rows_without_negatives_do_not_count_for_means_of_negatives():
    """Two rows of one id, which is all that the third and fourth are told from."""
    z_a, z_b = _random(3)
    ids = torch.tensor([0, 0, 1])
    exclude = torch.zeros(3, 3, dtype=torch.bool)
    exclude[0, 2] = exclude[2, 0] = True  # the first row has none at all
    terms = F.info_nce_terms(z_a, z_b, ids=ids, exclude=exclude)
    assert terms.count_a.tolist() == terms.count_b.tolist() == [0, 1, 1]
    found = terms.summary(temperature=0.07)
    assert found["negatives_a_to_b"] == found["effective_negatives_a_to_b"] == 1
    expected = 0.07 * terms.negative_a[1:].mean()
    assert_allclose(found["negative_similarity_a_to_b"], expected, rtol=1e-12)


def test_all_weights_zero():
    z_a, z_b = _random(4)
    weight = torch.zeros(4, dtype=torch.float64)
    terms = F.info_nce_terms(z_a * torch.nan, z_b, weight=weight)
    for value in terms.summary(temperature=0.07, weight=weight).values():
        assert value == 0


def test_no_groups_at_all():
    z = torch.zeros(0, 4, 3)
    terms = F.info_nce_terms(z, z, reduction="sum")
    assert terms.rank_a_to_b.shape == (0, 4)
    assert all(v == 0 for v in terms.summary(temperature=0.07).values())


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_nan_is_seen_unless_it_has_no_weight(chunk_size):
    z_a, z_b = _random(5)
    z_a[1] = torch.nan
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    present = F.info_nce_terms(z_a, z_b, chunk_size=chunk_size)
    assert present.rank_a_to_b[1] == 4  # not among the hits
    assert (present.rank_b_to_a >= 1).all()
    assert present.negative_a[1].isnan()
    assert present.effective_negatives_a[1].isnan()
    found = present.summary(temperature=0.07)
    assert found["positive_similarity"].isnan()
    assert found["effective_negatives_b_to_a"].isnan()
    absent = F.info_nce_terms(z_a, z_b, weight=weight, chunk_size=chunk_size)
    for value in absent.summary(temperature=0.07, weight=weight).values():
        assert value.isfinite()


# Numbers ------------------------------------------------------------------------------


@given(
    temperature=st.floats(1e-3, 10),
    scale=st.sampled_from([0.0, 0.01, 1.0]),
    rows=st.integers(2, 40),
    chunk_size=st.sampled_from([None, 7]),
    seed=st.integers(0, 2**31),
)
def test_effective_numbers_are_of_negatives(temperature, scale, rows, chunk_size, seed):
    """In float32, from one to all of them, whatever the temperature."""
    z_a, z_b = (1 + scale * z for z in _random(rows, seed=seed, dtype=torch.float32))
    options = {"temperature": temperature, "chunk_size": chunk_size}
    terms = F.info_nce_terms(z_a, z_b, **options)
    exact = F.info_nce_terms(z_a.double(), z_b.double(), **options)
    for side in "ab":
        name = f"effective_negatives_{side}"
        effective = getattr(terms, name)
        assert (effective >= 1).all()
        assert (effective <= rows - 1).all()
        # Rounding of cosines, over the temperature.
        rtol = 1e-5 + 1e-6 / temperature
        assert_allclose(effective, getattr(exact, name), rtol=rtol)


@pytest.mark.parametrize("temperature", [0.01, 0.06, 0.5])
def test_one_negative_is_one(temperature):
    """Exactly, though its exponential and the square of it are rounded."""
    z_a, z_b = _random(2, lead=(300,), dtype=torch.float32)
    terms = F.info_nce_terms(z_a, z_b, temperature=temperature)
    assert (terms.effective_negatives_a == 1).all()
    assert (terms.effective_negatives_b == 1).all()


@pytest.mark.parametrize("temperature", [0.019, 0.026, 0.051, 1.0])
def test_squares_of_exponentials_stay_in_range(temperature):
    """Half of the bound is left to logits whose squared exponentials are summed."""
    z_a, z_b = _random(6, dtype=torch.float32)
    contrast = pairs.paired("test", z_a, z_b, normalize=True)
    contrast = pairs.scaled(contrast, temperature, normalize=True)
    tiling = square(6, 6, None, z_a)
    assert contrast.plan(tiling).bounded == (temperature > 1 / 40)
    assert contrast.plan(tiling, measured=True).bounded == (temperature > 1 / 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(dtype):
    z_a, z_b = (z.to(dtype) for z in _random(6))
    plain = F.info_nce_terms(z_a, z_b)
    with torch.autocast("cpu", torch.bfloat16):
        inside = F.info_nce_terms(z_a, z_b)
    for first, second in zip(plain, inside, strict=True):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)


# Transforms ---------------------------------------------------------------------------


def _all(z_a, z_b, weight=None, **options):
    terms = F.info_nce_terms(z_a, z_b, weight=weight, **options)
    return terms, terms.summary(temperature=0.07, weight=weight)


def _assert_same(found, expected):
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert_allclose(ours.detach(), theirs.detach(), **SAME)
    assert found[1].keys() == expected[1].keys()
    for name, value in found[1].items():
        assert_allclose(value, expected[1][name], **SAME, err_msg=name)


@pytest.mark.parametrize(
    ("negatives", "chunk_size", "weighted"),
    [("group", None, False), ("group", 4, True), ("cross", None, True)],
)
def test_compiles_to_one_graph(negatives, chunk_size, weighted):
    torch._dynamo.reset()
    z_a, z_b = (z.requires_grad_() for z in _random(7, lead=(2,)))
    weight = torch.rand(2, 7, dtype=torch.float64) if weighted else None
    options = {"negatives": negatives, "chunk_size": chunk_size}
    compiled = torch.compile(_all, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (compiled, _all):
        found = function(z_a, z_b, weight, **options)
        _assert_same(found, _all(z_a, z_b, weight, **options))
        loss = found[0].a_to_b + 2 * found[0].b_to_a
        grads.append(torch.autograd.grad(loss, (z_a, z_b)))
    for ours, theirs in zip(*grads, strict=True):
        assert_allclose(ours, theirs, **SAME)
    with torch.no_grad():
        found = compiled(z_a, z_b, weight, **options)
    _assert_same(found, _all(z_a, z_b, weight, **options))


def test_compiles_with_dynamic_shapes():
    torch._dynamo.reset()
    compiled = torch.compile(_all, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (6, 9, 13):
        z = _random(rows)
        _assert_same(compiled(*z), _all(*z))


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_maps(chunk_size):
    z_a, z_b = _random(6, lead=(3,))

    def f(z_a, z_b):
        return _all(z_a, z_b, chunk_size=chunk_size)

    terms, summary = torch.func.vmap(f)(z_a, z_b)
    for i in range(3):
        one = tuple(term[i] for term in terms), {k: v[i] for k, v in summary.items()}
        _assert_same(one, f(z_a[i], z_b[i]))


def test_gradients_of_a_function_with_the_rest_beside():
    z_a, z_b = _random(6)

    def f(z_a):
        terms, summary = _all(z_a, z_b)
        return terms.a_to_b, summary

    grad, summary = torch.func.grad(f, has_aux=True)(z_a)
    assert not any(v.requires_grad for v in summary.values())
    leaf = z_a.clone().requires_grad_()
    F.info_nce(leaf, z_b, symmetric=False).backward()
    assert_allclose(grad, leaf.grad, **SAME)


# Errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "exception", "argument"),
    [
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"temperature": "0.1"}, TypeError, "temperature"),
        ({"top": 5}, TypeError, "top"),
        ({"top": (0,)}, ValueError, "top"),
        ({"top": (1.5,)}, TypeError, "top"),
        ({"weight": torch.ones(3)}, ValueError, "weight"),
        ({"weight": [1.0] * 4}, TypeError, "weight"),
        ({"group": object()}, ValueError, "group"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_summary_checks_its_options(options, exception, argument):
    terms = F.info_nce_terms(*_random(4))
    message = rf"^InfoNCETerms\.summary: {argument} must be .+, got .+"
    with pytest.raises(exception, match=message):
        terms.summary(**{"temperature": 0.07, **options})


def test_summary_of_no_retrievals():
    terms = F.info_nce_terms(*_random(4))
    assert not any("top" in k for k in terms.summary(temperature=0.07, top=()))


# What the page says -------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "temperature"), [(128, 0.07), (64, 0.2), (256, 0.1)])
def test_numbers_by_chance(dim, temperature):
    n = 1500
    terms = F.info_nce_terms(*_random(n, dim), temperature=temperature)
    found = terms.summary(temperature=temperature, top=(150,))
    share = math.exp(-1 / (dim * temperature**2))
    for side in SIDES:
        assert_allclose(found[f"top_150_{side}"], 0.1, atol=0.03)
        effective = found[f"effective_negatives_{side}"] / found[f"negatives_{side}"]
        assert_allclose(effective, share, rtol=0.2)  # of few rows
        assert abs(found[f"negative_similarity_{side}"]) < 1e-3
        assert found[f"saturated_{side}"] == 0
    assert abs(found["positive_similarity"]) < 0.01


def test_a_cross_entropy_is_zero_where_rows_are_saturated():
    """And not far above: the constant is that of float32."""
    for gap, zero in ((-17.0, True), (-16.0, False)):
        logits = torch.tensor([[0.0, gap]], requires_grad=True)
        value = torch.nn.functional.cross_entropy(logits, torch.tensor([0]))
        (grad,) = torch.autograd.grad(value, logits)
        assert (value == 0) == zero
        assert (grad[0, 0] == 0) == zero
