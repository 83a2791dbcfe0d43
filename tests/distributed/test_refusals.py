"""What is refused across ranks, and what happens when one of them fails."""

import pytest
import torch

import xmodal_losses as xl
import xmodal_losses.functional as F
from distributed import jobs, jobs_of_queues
from distributed.ranks import Pool
from specs import BY_NAME, HAVE_NO_CHOICE, SPECS

pytestmark = pytest.mark.xdist_group("ranks")


@pytest.mark.parametrize("loss", [spec.name for spec in SPECS])
def test_a_group_has_to_be_one(loss):
    z = torch.randn(4, 3)
    labels = BY_NAME[loss].labels_of(z, z)
    with pytest.raises(ValueError, match=rf"^{loss}: group must be a process group"):
        getattr(F, loss)(z, z, **labels, group="gloo")
    if loss not in HAVE_NO_CHOICE:
        with pytest.raises(ValueError, match=rf"^{loss}: exchange must be one of No"):
            getattr(F, loss)(z, z, **labels, exchange="carrier pigeon")
    module = BY_NAME[loss].module
    with pytest.raises(ValueError, match=rf"^{module}: gather must be False without"):
        getattr(xl, module)(gather=True)(z, z, **labels)
    with pytest.raises(TypeError, match=rf"^{module}: gather must be True, False or"):
        getattr(xl, module)(gather="all")
    with pytest.raises(ValueError, match=rf"^{module}: grad_reduce must be one of "):
        getattr(xl, module)(grad_reduce="max")


def test_ranks_that_do_not_fit_together_are_told_so(pools):
    for job, message in (
        ("columns", "z_a must have the same number of columns on every rank, got 3, 4"),
        ("weights", "weight must be given, or not, on every rank, got 0, 1"),
        ("gradients", "z_a and z_b must have gradients, or none, on every rank, got"),
    ):
        for answer in pools(2)(jobs.mismatched, job):
            assert answer.startswith(f"info_nce: {message}"), answer


def test_places_that_do_not_fit_together_are_told_so(pools):
    said = "the number of pairs must be the same on every rank, got 4, 3."
    for answer in pools(2)(jobs.mismatched_places):
        assert answer == f"vicreg_local: {said}"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("size", "size must be the same on every rank, got 4, 5."),
        ("dim", "dim must be the same on every rank, got 3, 4."),
        ("with_ids", "with_ids must be the same on every rank, got 0, 1."),
        ("dtype", "the dtype of the queue must be the same on every rank, got 2, 3."),
    ],
)
def test_queues_that_do_not_fit_together_are_told_so(pools, what, said):
    for answer in pools(2)(jobs_of_queues.mismatched_queues, what):
        assert answer == f"EmbeddingQueue: {said}"


def test_second_derivatives_are_refused(pools):
    z = torch.empty(3, 2)
    options = [(spec.name, spec.labels_of(z, z)) for spec in SPECS]
    options += [
        ("mmd", {"kernel": xl.EnergyKernel()}),
        ("mmd", {"estimator": "linear"}),
    ]
    options += [(name, {"exchange": "gather"}) for name in ("coral", "barlow_twins")]
    for name, some in options:
        for answer in pools(2)(jobs.second_derivative, name, some):
            assert answer.startswith(
                "backward: create_graph must be False for a loss of a"
            )


def test_a_process_outside_the_group_is_told_so(pools):
    inside, outside = pools(2)(jobs.subgroup)
    assert inside == "nothing was raised"
    assert outside.startswith("coral: group must be a process group that this process")


def test_a_rank_that_fails_does_not_hang_the_others():
    """They raise when the time that the group was made with is over."""
    pool = Pool(2, patience=3.0)
    try:
        failed, waited = pool(jobs.failing)
        assert failed == "this rank has failed"
        kind, seconds = waited
        assert kind == "RuntimeError"
        assert seconds < 20
    finally:
        pool.close()
