"""A loss on W processes is the loss on one: values and gradients, every loss and route.

However the rows lie on the ranks, the batch is that of one process, and what it gives
there is what is compared with.
"""

from itertools import product

import numpy as np
import pytest
import torch
import torch.distributed.fsdp
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from distributed import jobs
from harness import Case, to_package, to_torch
from specs import BY_NAME, HAVE_NO_CHOICE, SPECS

pytestmark = pytest.mark.xdist_group("ranks")

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
PAIRS, MOMENTS = ("gather", "ring"), ("statistics", "gather")
EXCHANGES = {
    spec.name: PAIRS
    if spec.per_row or spec.name in ("mmd", "similarity_preservation")
    else MOMENTS
    for spec in SPECS
} | dict.fromkeys(HAVE_NO_CHOICE, (None,))
each_size = pytest.mark.parametrize(
    "size", [2, 3, pytest.param(4, marks=pytest.mark.slow)]
)


def splits(n, size):
    """Return ways to have n rows on so many ranks: even, uneven, and with none."""

    def evenly(n, size):
        return [n // size + (rank < n % size) for rank in range(size)]

    even = evenly(n, size)
    most = n // 2 + 1
    uneven = [most, *evenly(n - most, size - 1)]
    none = [0, *even[1:-1], n - sum(even[1:-1])]
    return [tuple(counts) for counts in (even, uneven, none)]


def counts_of(inputs, size, how, unpaired=False):
    """Return how many rows of each input are on each rank.

    The two batches of an unpaired loss need not lie alike.
    """
    counts = {name: splits(len(array), size)[how] for name, array in inputs.items()}
    for name in counts.keys() & {"z_b", "weight_b", "labels_b"}:
        if unpaired and inputs["z_a"].ndim == 2:
            counts[name] = counts[name][::-1]
    return counts


def on_one(loss, inputs, options, cotangent=1.0):
    """Return value and gradients of the whole batch on one process."""
    tensors = to_torch(inputs)
    value = getattr(F, loss)(**tensors, **options)
    (value * torch.as_tensor(cotangent)).sum().backward()
    return jobs.arrays(value, tensors["z_a"].grad, tensors["z_b"].grad)


def assert_gradients(answers, expected, factor, about=""):
    """Compare the gradients of all ranks, in their rows, with a multiple of those."""
    for of in (1, 2):
        ours = np.concatenate([answer[of] for answer in answers])
        scale = max(1.0, np.abs(expected[of]).max())
        assert_allclose(
            ours / scale / factor, expected[of] / scale, **CLOSE, err_msg=about
        )


def assert_exact(answers, expected, factor, about=""):
    """The mean of the values, and the gradients, are those of one process."""
    values = [value for value, *_ in answers]
    assert_allclose(np.mean(values), expected[0], **CLOSE, err_msg=about)
    assert_gradients(answers, expected, factor, about)


def cases():
    """Return few cases in which every option, mask, weight and shape occurs."""
    rows = []
    for spec in SPECS:
        seen = set()
        for case in spec.cases:
            if case.rows[0] < 4:
                continue
            what = {
                ("lead", len(case.lead)),
                ("wide", case.dims[0] > case.rows[0]),
                *((k, getattr(case, k)) for k in ("weighted", "exclude")),
                *((k, getattr(case, k)) for k in ("ids", "positions")),
                *((k, str(v)) for k, v in case.options.items()),
            }
            if spec.name == "info_nce":  # where options meet
                what = set(product(what, what))
            if what - seen:
                seen |= what
                rows.append(pytest.param(spec, case, id=f"{spec.name}-{case}"))
    return rows


@each_size
@pytest.mark.parametrize(("spec", "case"), cases())
def test_value_and_gradients(pools, spec, case, size):
    inputs = spec.draw(case, 71)
    options = to_package(case.options)
    expected = on_one(spec.name, inputs, options)
    unpaired = not spec.paired and options.get("estimator") not in (
        "paired",
        "block",
        "linear",
    )
    for how, exchange in product(range(3), EXCHANGES[spec.name]):
        counts = counts_of(inputs, size, how, unpaired)
        about = f"{counts['z_a']}, {exchange}"
        some = options if exchange is None else {**options, "exchange": exchange}
        answers = pools(size)(jobs.loss, spec.name, inputs, counts, some)
        assert_exact(answers, expected, size, about)
        if inputs["z_a"].ndim == 2 and not spec.per_row:
            values = [value for value, *_ in answers]
            assert_allclose(values, values[0], rtol=1e-12)  # all know it


@pytest.mark.parametrize("loss", [*HAVE_NO_CHOICE, "similarity_preservation"])
def test_no_rows_on_any_rank(pools, loss):
    inputs = {name: array[:0] for name, array in BY_NAME[loss].draw(Case(), 70).items()}
    counts = dict.fromkeys(inputs, (0, 0))
    for value, *grads in pools(2)(jobs.loss, loss, inputs, counts, {}):
        assert value == 0
        assert all(grad.shape == (0, 4) for grad in grads)


@pytest.mark.parametrize("lead", [(), (4,)], ids=["one", "four"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_sums_and_frameworks_that_add_up(pools, spec, lead):
    inputs = spec.draw(Case(lead=lead, weighted=True), 72)
    if lead:  # a problem without weight
        for name in spec.weights:
            inputs[name][1] = 0.0
    for reduction, grad_reduce in product(("mean", "sum"), ("mean", "sum")):
        options = {"reduction": reduction}
        expected = on_one(spec.name, inputs, options)
        answers = pools(2)(
            jobs.loss,
            spec.name,
            inputs,
            counts_of(inputs, 2, 1),
            {**options, "grad_reduce": grad_reduce},
        )
        assert_exact(answers, expected, 2 if grad_reduce == "mean" else 1)


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
@pytest.mark.parametrize("lead", [(), (4,)], ids=["rows", "groups"])
def test_values_of_rows(pools, lead, negatives):
    """Rows are the own ones; what others make of theirs comes back, too."""
    spec = BY_NAME["info_nce"]
    inputs = spec.draw(Case(lead=lead, weighted=True), 73)
    options = {"reduction": "none", "negatives": negatives}
    cotangent = np.random.default_rng(0).normal(size=(*lead, 6))
    expected = on_one(spec.name, inputs, options, cotangent)
    for exchange in PAIRS:
        some = {**options, "exchange": exchange}
        counts = counts_of(inputs, 2, 1)
        answers = pools(2)(jobs.loss, "info_nce", inputs, counts, some, cotangent)
        values = np.concatenate([value for value, *_ in answers])
        assert_allclose(values, expected[0], **CLOSE)
        assert_gradients(answers, expected, 1)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_terms(pools, spec):
    name = f"{spec.name}_terms"
    if not hasattr(F, name):
        pytest.skip("the loss has one term")
    inputs = spec.draw(Case(weighted=True), 74)
    tensors = to_torch(inputs)
    terms = getattr(F, name)(**tensors)
    torch.stack([term for term in terms if term.ndim == 0]).sum().backward()
    grads = (tensors["z_a"].grad, tensors["z_b"].grad)
    value = torch.stack([term for term in terms if term.ndim == 0]).sum()
    expected = jobs.arrays(value, *grads)
    for exchange in EXCHANGES[spec.name]:
        counts = counts_of(inputs, 2, 1)
        answers = pools(2)(jobs.loss, name, inputs, counts, {"exchange": exchange})
        assert_exact(answers, expected, 2, exchange)


@each_size
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    "options",
    [{}, {"matching": "features", "num_matches": 2}, {"pooled": True}],
    ids=str,
)
def test_places_of_the_images_of_all_ranks(pools, options, weighted, size):
    rng = np.random.default_rng(79)
    inputs = {name: rng.normal(size=(6, 4, 3)) for name in ("z_a", "z_b")}
    if options.get("pooled"):
        for name in ("a", "b"):
            inputs[f"positions_{name}"] = rng.uniform(size=(6, 4, 2))
    if weighted:
        weight = rng.uniform(size=(6, 4))
        inputs["weight_a"] = weight * (weight > 0.3)
    for grad_reduce in ("mean", "sum"):
        some = {**options, "grad_reduce": grad_reduce}
        expected = on_one("vicreg_local", inputs, options)
        for how in range(3):
            counts = counts_of(inputs, size, how)
            answers = pools(size)(jobs.loss, "vicreg_local", inputs, counts, some)
            factor = size if grad_reduce == "mean" else 1
            assert_exact(answers, expected, factor, str(counts["z_a"]))


def test_groups_of_images_on_their_own_ranks(pools):
    rng = np.random.default_rng(80)
    inputs = {name: rng.normal(size=(4, 3, 4, 2)) for name in ("z_a", "z_b")}
    expected = on_one("vicreg_local", inputs, {})
    answers = pools(2)(jobs.loss, "vicreg_local", inputs, counts_of(inputs, 2, 1), {})
    assert_exact(answers, expected, 2)


def test_many_rows_and_columns(pools):
    """Tiles that do not divide, rows beyond the median's sample, the Gram route."""
    rng = np.random.default_rng(5)
    a = rng.normal(size=(2501, 3))
    inputs = {"z_a": a, "z_b": a + 0.5 * rng.normal(size=a.shape)}
    median = xl.GaussianKernel("median")
    joint = xl.JointKernel([median, xl.LaplacianKernel()], [1, 2])
    for name, options in (
        ("info_nce", {"chunk_size": 300}),
        ("info_nce", {"symmetric": False}),
        ("mmd", {"kernel": median}),
        ("mmd", {"kernel": joint, "exchange": "ring"}),
        ("mmd", {"kernel": xl.LaplacianKernel(), "chunk_size": 500}),
        ("similarity_preservation", {"chunk_size": 700}),
    ):
        expected = on_one(name, inputs, options)
        counts = counts_of(inputs, 3, 1, unpaired=name == "mmd")
        answers = pools(3)(jobs.loss, name, inputs, counts, options)
        assert_exact(answers, expected, 3, name)
    wide = {name: rng.normal(size=(6, 600)) for name in ("z_a", "z_b")}
    for name in ("coral", "barlow_twins", "vicreg", "dcca"):  # chosen: to gather
        options = {"ridge": 0.1} if name == "dcca" else {}
        expected = on_one(name, wide, options)
        answers = pools(2)(jobs.loss, name, wide, counts_of(wide, 2, 1), options)
        assert_exact(answers, expected, 2, name)


# --------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------

# Kernels with much to learn.
DEEP = xl.DeepKernel(
    torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
)
SUM = xl.MultiKernel(
    [xl.GaussianKernel("mean", learn=True), xl.LaplacianKernel(1.5, learn=True)],
    [0.7, 0.2],
    learn=True,
)
MODULES = [
    ("InfoNCELoss", {"learn_temperature": True}),
    ("InfoNCELoss", {"learn_temperature": True, "exchange": "ring"}),
    ("NTXentLoss", {}),
    ("SigmoidContrastiveLoss", {"learn": True}),
    ("SigmoidContrastiveLoss", {"learn": True, "exchange": "ring"}),
    ("MMDLoss", {"estimator": "paired"}),
    (
        "MMDLoss",
        {
            "kernel": xl.LaplacianKernel(
                torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
            )
        },
    ),
    (
        "MMDLoss",
        {
            "kernel": xl.LaplacianKernel(
                torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
            ),
            "estimator": "linear",
        },
    ),
    ("MMDLoss", {"kernel": DEEP}),
    ("MMDLoss", {"kernel": DEEP, "estimator": "block", "block_size": 3}),
    ("MMDLoss", {"kernel": SUM, "estimator": "unbiased"}),
    ("MMDLoss", {"kernel": xl.RandomFeatures(SUM, 3, num_features=2)}),
    ("SimilarityPreservationLoss", {"gamma": 1.0, "detach_target": False}),
    ("CORALLoss", {"mean_weight": 1.0}),
    ("BarlowTwinsLoss", {}),
    ("BarlowTwinsLoss", {"exchange": "gather"}),
    ("VICRegLoss", {}),
    ("DCCALoss", {}),
]


@each_size
@pytest.mark.parametrize(("module", "options"), MODULES, ids=lambda v: str(v)[:50])
def test_one_step_under_ddp_is_the_step_of_one_process(pools, module, options, size):
    inputs = BY_NAME["info_nce"].draw(Case(rows=(7, 7), dims=(3, 3)), 75)
    expected = jobs.step(0, 1, module, options, inputs, None)
    for how in (0, 1):
        counts = counts_of(inputs, size, how)
        for parameters in pools(size)(jobs.step, module, options, inputs, counts):
            assert parameters.keys() == expected.keys()
            for name, value in parameters.items():
                assert_allclose(value, expected[name], **CLOSE, err_msg=name)


@each_size
@pytest.mark.parametrize("grad_reduce", ["mean", "sum"])
def test_centres_get_their_gradient_from_all_ranks(pools, grad_reduce, size):
    rng = np.random.default_rng(78)
    inputs = {"z": rng.normal(size=(6, 3)), "labels": rng.integers(0, 4, size=6)}
    inputs["weight"] = rng.uniform(size=6)
    centers = rng.normal(size=(4, 3))
    expected = jobs.centers(0, 1, inputs, centers, None, grad_reduce)
    for counts in splits(6, size):
        some = dict.fromkeys(inputs, counts)
        answers = pools(size)(jobs.centers, inputs, centers, some, grad_reduce)
        values, rows, of_centers = zip(*answers, strict=True)
        assert_allclose(np.mean(values), expected[0], **CLOSE)
        factor = size if grad_reduce == "mean" else 1
        assert_allclose(np.concatenate(rows), factor * expected[1], **CLOSE)
        assert_allclose(sum(of_centers), factor * expected[2], **CLOSE)


@pytest.mark.skipif(
    not hasattr(torch.distributed.fsdp, "fully_shard"), reason="torch has another FSDP"
)
@pytest.mark.parametrize("module", ["InfoNCELoss", "MMDLoss", "VICRegLoss"])
def test_one_step_under_fsdp_is_the_step_of_one_process(pools, module):
    inputs = BY_NAME["info_nce"].draw(Case(rows=(7, 7), dims=(3, 3)), 75)
    expected = jobs.step(0, 1, module, {}, inputs, None)
    counts = counts_of(inputs, 2, 1)
    for parameters in pools(2)(jobs.sharded_step, module, inputs, counts):
        for name, value in parameters.items():
            assert_allclose(value, expected[name], **CLOSE, err_msg=name)


@pytest.mark.parametrize("module", ["CORALLoss", "BarlowTwinsLoss", "VICRegLoss"])
def test_chunks_of_all_ranks_are_one_batch(pools, module):
    inputs = BY_NAME["info_nce"].draw(Case(rows=(9, 9)), 76)
    tensors = to_torch(inputs)
    value = getattr(xl, module)()(**tensors)
    value.backward()
    expected = jobs.arrays(value, tensors["z_a"].grad, tensors["z_b"].grad)
    for how in range(3):
        counts = counts_of(inputs, 2, how)
        answers = pools(2)(jobs.chunked, module, inputs, counts)
        assert_exact(answers, expected, 2)


def test_graphs_in_chunks_are_one_step(pools):
    inputs = BY_NAME["info_nce"].draw(Case(rows=(9, 9), dims=(3, 3)), 78)
    options = {"learn_temperature": True}
    expected = jobs.step(0, 1, "InfoNCELoss", options, inputs, None)
    counts = counts_of(inputs, 2, 1)
    for parameters in pools(2)(jobs.cached_step, inputs, counts):
        for name, value in parameters.items():
            assert_allclose(value, expected[name], **CLOSE, err_msg=name)


# --------------------------------------------------------------------------------------
# That these tests would see it
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutation", ["scaled", "a rank is left out"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_wrong_scale_or_a_lost_rank_is_seen(pools, spec, mutation):
    inputs = spec.draw(Case(), 77)
    expected = on_one(spec.name, inputs, {})
    counts = counts_of(inputs, 2, 0)
    answers = pools(2)(jobs.mutated_loss, mutation, spec.name, inputs, counts, {})
    with pytest.raises(AssertionError):
        assert_exact(answers, expected, 2)


@each_size
@pytest.mark.parametrize("per_row", [False, True], ids=["shared", "per row"])
@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
def test_a_guide_and_extra_negatives(pools, negatives, per_row, size):
    """Those for all rows are alike on all ranks; a row's own are where it is."""
    lead = () if negatives == "group" else (5,)
    case = Case({}, lead=lead, weighted=True, exclude=True, ids=True)
    inputs = BY_NAME["info_nce"].draw(case, 75)
    rng = np.random.default_rng(76)
    rows = inputs["z_a"].shape[:-1]
    for name in ("guide_a", "guide_b"):
        inputs[name] = rng.normal(size=(*rows, 2)) + inputs["z_a"][..., :2]
    some = (*rows, 3) if per_row else (3,)
    extra = {name: rng.normal(size=(*some, 4)) for name in ("a", "b")}
    shared = {}
    if per_row:
        inputs |= {f"extra_{name}": rows for name, rows in extra.items()}
    else:
        shared = extra | {"ids": np.arange(3), "valid": np.array([True, False, True])}
    options = {"negatives": negatives, "hardest": 3, "direction_weight": 0.7}
    expected = jobs.beside(
        0, 1, inputs, {k: (len(v),) for k, v in inputs.items()}, shared, options
    )
    for how, exchange in product(range(3), PAIRS):
        counts = counts_of(inputs, size, how)
        answers = pools(size)(
            jobs.beside, inputs, counts, shared, options | {"exchange": exchange}
        )
        about = f"{counts['z_a']}, {exchange}"
        assert_exact(answers, expected, size, about)
        for of in (3, 4):
            grads = [answer[of] for answer in answers]
            ours = np.concatenate(grads) / size if per_row else np.mean(grads, 0)
            assert_allclose(ours, expected[of], **CLOSE, err_msg=about)
