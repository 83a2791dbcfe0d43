"""A batch embedded in chunks has the gradients of the batch."""

import copy

import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F

ROWS, WIDTH = 12, 6


class _Encoder(torch.nn.Module):
    """Two towers; dropout draws from the generator, layer norm sees single rows."""

    def __init__(self, dropout=0.3):
        super().__init__()
        self.towers = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Linear(WIDTH, 8),
                torch.nn.GELU(),
                torch.nn.Dropout(dropout),
                torch.nn.LayerNorm(8),
                torch.nn.Linear(8, 4),
            )
            for _ in range(2)
        )

    def forward(self, chunk):
        return tuple(f(x) for f, x in zip(self.towers, chunk, strict=True))


class _Counting(torch.nn.Module):
    """Notes the rows whose graph is alive at once."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.largest, self.calls = encoder, 0, 0

    def forward(self, chunk):
        self.calls += 1
        if torch.is_grad_enabled():
            self.largest = max(self.largest, len(chunk[0]))
        return self.encoder(chunk)


def _batch(lead=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (*lead, ROWS, WIDTH)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)
    ]


def _chunks(batch, sizes):
    return list(zip(*(x.split(sizes) for x in batch), strict=True))


CRITERIA = {
    "info_nce": xl.InfoNCELoss(learn_temperature=True),
    "info_nce in tiles": xl.InfoNCELoss(learn_temperature=True, chunk_size=4),
    "mmd": xl.MMDLoss(kernel=xl.GaussianKernel(torch.nn.Parameter(torch.tensor(1.0)))),
    "barlow_twins": xl.BarlowTwinsLoss(),
    "vicreg": xl.VICRegLoss(),
    "coral": xl.CORALLoss(),
    "dcca": xl.DCCALoss(ridge=0.1),
}


@pytest.mark.parametrize("sizes", [[12], [4, 4, 4], [1, 6, 5]], ids=str)
@pytest.mark.parametrize("name", CRITERIA)
def test_chunks_are_the_batch(name, sizes):
    criterion = copy.deepcopy(CRITERIA[name]).double()
    encoder = _Encoder(dropout=0.0).double()
    batch = _batch()
    parameters = [*encoder.parameters(), *criterion.parameters()]
    expected = criterion(*encoder(batch))
    grads = torch.autograd.grad(2.5 * expected, parameters)

    value = xl.cached_backward(criterion, encoder, _chunks(batch, sizes), scale=2.5)
    assert not value.requires_grad
    assert_allclose(value, expected.detach(), rtol=1e-12)
    for parameter, grad in zip(parameters, grads, strict=True):
        assert_allclose(parameter.grad, grad, rtol=1e-10, atol=1e-12)


def test_options_are_those_of_the_batch():
    encoder = _Encoder(0.0).double()
    batch = _batch(lead=(4,))
    options = {
        "weight": torch.rand(4, ROWS, dtype=torch.float64),
        "ids": torch.randint(5, (4, ROWS)),
    }
    criterion = xl.InfoNCELoss(negatives="cross")
    expected = criterion(*encoder(batch), **options)
    grads = torch.autograd.grad(expected, list(encoder.parameters()))
    chunks = _chunks(batch, [1, 3])
    value = xl.cached_backward(criterion, encoder, chunks, **options)
    assert_allclose(value, expected.detach(), rtol=1e-12)
    for parameter, grad in zip(encoder.parameters(), grads, strict=True):
        assert_allclose(parameter.grad, grad, rtol=1e-10, atol=1e-12)


def test_gradients_accumulate():
    encoder = _Encoder(0.0).double()
    chunks = _chunks(_batch(), [6, 6])
    xl.cached_backward(F.info_nce, encoder, chunks)
    once = [p.grad.clone() for p in encoder.parameters()]
    xl.cached_backward(F.info_nce, encoder, chunks)
    for parameter, grad in zip(encoder.parameters(), once, strict=True):
        assert_allclose(parameter.grad, 2 * grad, rtol=1e-12)


def test_one_graph_at_a_time():
    encoder = _Counting(_Encoder().double())
    xl.cached_backward(F.info_nce, encoder, _chunks(_batch(), [5, 4, 3]))
    assert encoder.largest == 5
    assert encoder.calls == 6


def test_dropout_is_the_same_in_both_passes():
    """Every mask is drawn once: the gradient is that of the embeddings seen."""
    encoder = _Encoder(dropout=0.5).double()
    chunks = _chunks(_batch(), [4, 4, 4])
    torch.manual_seed(5)
    seen = [encoder(chunk) for chunk in chunks]
    expected = F.info_nce(*(torch.cat(side) for side in zip(*seen, strict=True)))
    grads = torch.autograd.grad(expected, list(encoder.parameters()))
    after = torch.rand(1)

    torch.manual_seed(5)
    value = xl.cached_backward(F.info_nce, encoder, chunks)
    assert_allclose(value, expected.detach(), rtol=1e-12)
    for parameter, grad in zip(encoder.parameters(), grads, strict=True):
        assert_allclose(parameter.grad, grad, rtol=1e-10, atol=1e-12)
    assert torch.equal(torch.rand(1), after)  # as if the batch had been seen once


def test_a_frozen_tower():
    encoder = _Encoder(0.0).double()
    encoder.towers[1].requires_grad_(False)
    batch = _batch()
    grads = torch.autograd.grad(
        F.info_nce(*encoder(batch)), list(encoder.towers[0].parameters())
    )
    xl.cached_backward(F.info_nce, encoder, _chunks(batch, [6, 6]))
    for parameter, grad in zip(encoder.towers[0].parameters(), grads, strict=True):
        assert_allclose(parameter.grad, grad, rtol=1e-10, atol=1e-12)
    assert all(p.grad is None for p in encoder.towers[1].parameters())


def test_errors():
    encoder = _Encoder().double()
    chunks = _chunks(_batch(), [6, 6])
    with pytest.raises(ValueError, match=r"^cached_backward: chunks must be .+, got"):
        xl.cached_backward(F.info_nce, encoder, [])
    with pytest.raises(ValueError, match=r"^cached_backward: criterion must .+, got"):
        xl.cached_backward(F.info_nce, encoder, chunks, reduction="none")
    encoder.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^cached_backward: encode must .+, got"):
        xl.cached_backward(F.info_nce, encoder, chunks)
