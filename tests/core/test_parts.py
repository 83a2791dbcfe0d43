"""Parts of a range: all of it, once, in order, none larger than asked."""

import pytest
import torch

from xmodal_losses._core.parts import parts, split


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 6, 7, 8, 21])
def test_parts_make_up_the_range(n, size):
    found = [range(n)[some] for some in parts(n, size)]
    assert [i for some in found for i in some] == list(range(n))
    assert all(0 < len(some) <= size for some in found)
    assert len(found) == -(-n // size)


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 6, 7, 8])
def test_split_is_that_of_torch(n, size):
    z = torch.arange(2.0 * n).reshape(2, n)
    for one, other in zip(split(z, size, 1), z.split(size, 1), strict=True):
        assert torch.equal(one, other)
