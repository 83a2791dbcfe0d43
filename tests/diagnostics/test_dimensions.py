"""Dead and hinge dimensions, at the boundary and against the loss."""

import pytest
import torch

import xmodal_losses.functional as F
from xmodal_losses.diagnostics import dead_dimensions, hinge_counts


def columns(*deviations, n=5):
    """Return columns of these standard deviations, exactly."""
    column = torch.tensor([-1.0, 1.0] * 2 + [0.0] * (n - 4)).double()
    return torch.outer(column / column.std(), torch.tensor(deviations).double())


def test_dead_beside_the_others():
    z = columns(1.0, 0.5, 0.004, 0.0, -3.0)
    which = [False, False, True, True, False]
    for scale in (1e-9, 1.0, 1e9):
        found = dead_dimensions(scale * z + 7 * scale)
        assert found.which.tolist() == which
        assert found.total == 2
    assert dead_dimensions(z, threshold=0.0).which.tolist() == [False] * 3 + [
        True,
        False,
    ]
    # The root mean square is √((1 + 1/4 + 9)/5) = 1.43.
    assert dead_dimensions(z, threshold=0.69).total == 2 + 1
    assert dead_dimensions(z, threshold=0.71).total == 2 + 2


@pytest.mark.parametrize("n", [1, 4])
def test_all_are_dead_of_rows_that_are_the_same(n):
    z = torch.tensor([[1.0, 2.0, 0.1]]).expand(2, n, 3)
    assert dead_dimensions(z).total.tolist() == [3, 3]


def test_a_constant_column_is_dead_whatever_its_size():
    """The mean of equal numbers is not always that number."""
    z = torch.cat((torch.randn(49, 2), torch.full((49, 1), 1e6 / 3)), 1)
    assert dead_dimensions(z, threshold=0.0).which.tolist() == [False, False, True]


def test_on_the_hinge():
    z = columns(1.01, 0.99, 0.0)
    assert hinge_counts(z).which.tolist() == [False, True, True]
    assert hinge_counts(z, eps=0.0, target_std=0.98).total == 1
    assert hinge_counts(z, eps=1.0).total == 0  # √(0 + ε) is 1 already
    assert hinge_counts(z, target_std=0.0).total == 0


@pytest.mark.parametrize("options", [{}, {"target_std": 0.4}, {"eps": 0.5}])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_hinge_is_that_of_the_loss(options, weighted):
    """Columns on it, and no others, get a gradient of the variance term."""
    z = torch.randn(3, 9, 6, dtype=torch.float64) * torch.linspace(0.1, 1.5, 6)
    weight = torch.rand(3, 9, dtype=torch.float64) if weighted else None
    z.requires_grad_()
    F.vicreg_terms(z, z.detach(), weight=weight, **options).variance.backward()
    pushed = (z.grad != 0).any(-2)
    found = hinge_counts(z, weight=weight, **options)
    assert torch.equal(found.which, pushed)
    assert torch.equal(found.total, pushed.sum(-1))
    assert 0 < found.total.sum() < 18
    assert found.total.dtype == torch.int64
