"""SigLIP: closed forms, learned scale and bias, masks, and the published code."""

import math

import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck, gradgradcheck

import xmodal_losses as xl
import xmodal_losses.functional as F


def _pair(rows=5, dim=4, lead=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *lead, rows, dim, generator=generator, dtype=torch.float64)


def _softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_equal_rows(n):
    z = torch.ones(n, 3, dtype=torch.float64)
    expected = _softplus(-2.0) + (n - 1) * _softplus(2.0)
    value = F.sigmoid_contrastive(z, z, scale=5.0, bias=-3.0)
    assert_allclose(value, expected, rtol=1e-12)


def test_a_row_without_negatives_keeps_its_positive():
    z_a, z_b = _pair()
    alone = torch.zeros(5, dtype=torch.int64)  # all the same thing
    value = F.sigmoid_contrastive(z_a, z_b, ids=alone, reduction="none")
    cosine = torch.nn.functional.cosine_similarity(z_a, z_b)
    assert_allclose(value, torch.nn.functional.softplus(10 - 10 * cosine), rtol=1e-9)


def test_it_is_the_published_algorithm():
    z_a, z_b = _pair()
    a, b = (torch.nn.functional.normalize(z, dim=-1) for z in (z_a, z_b))
    logits = a @ b.T * 10.0 - 10.0
    labels = 2 * torch.eye(5, dtype=torch.float64) - 1
    expected = -torch.nn.functional.logsigmoid(labels * logits).sum() / 5
    assert_allclose(F.sigmoid_contrastive(z_a, z_b), expected, rtol=1e-12)


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("normalize", [True, False])
def test_scale_and_bias_get_their_gradient(negatives, chunk_size, normalize):
    z_a, z_b = _pair(rows=3, dim=2, lead=(2,))

    def f(scale, bias):
        return F.sigmoid_contrastive(
            z_a,
            z_b,
            scale=scale,
            bias=bias,
            normalize=normalize,
            negatives=negatives,
            chunk_size=chunk_size,
        )

    numbers = (2.0, -1.5)
    learned = [
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in numbers
    ]
    assert_allclose(f(*learned).detach(), f(*numbers), rtol=1e-12)
    assert_allclose(f(2.0, learned[1]).detach(), f(*numbers), rtol=1e-12)
    assert gradcheck(f, learned)
    assert gradgradcheck(f, learned)


def test_the_module_learns_both():
    z_a, z_b = _pair()
    criterion = xl.SigmoidContrastiveLoss(learn=True).double()
    assert_allclose(criterion(z_a, z_b).detach(), F.sigmoid_contrastive(z_a, z_b))
    assert {name for name, _ in criterion.named_parameters()} == {"log_scale", "bias"}
    before = criterion(z_a, z_b).item()
    optimiser = torch.optim.SGD(criterion.parameters(), lr=0.05)
    for _ in range(20):
        optimiser.zero_grad()
        criterion(z_a, z_b).backward()
        optimiser.step()
    assert criterion(z_a, z_b).item() < before
    again = xl.SigmoidContrastiveLoss(learn=True).double()
    again.load_state_dict(criterion.state_dict())
    assert again(z_a, z_b) == criterion(z_a, z_b)


def test_saturated_pairs_keep_their_value_and_gradient():
    z = (30 * torch.eye(3, 4)).requires_grad_()  # logits of 900
    value = F.sigmoid_contrastive(z, z.detach(), scale=1.0, bias=0.0, normalize=False)
    value.backward()
    assert_allclose(value.detach(), 2 * math.log(2), rtol=1e-6)
    assert z.grad.isfinite().all()


def test_bad_scale_and_bias_are_refused():
    z_a, z_b = _pair()
    with pytest.raises(ValueError, match=r"^sigmoid_contrastive: scale must be"):
        F.sigmoid_contrastive(z_a, z_b, scale=-1.0)
    with pytest.raises(ValueError, match=r"^sigmoid_contrastive: bias must be"):
        F.sigmoid_contrastive(z_a, z_b, bias=torch.zeros(2))
    with pytest.raises(TypeError, match=r"^SigmoidContrastiveLoss: learn must be"):
        xl.SigmoidContrastiveLoss(learn=1)
