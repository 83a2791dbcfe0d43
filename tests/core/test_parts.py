"""Parts of a range: all of it, once, in order, none larger than asked."""

import pytest

from xmodal_losses._core.parts import parts


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 6, 7, 8, 21])
def test_parts_make_up_the_range(n, size):
    found = [range(n)[some] for some in parts(n, size)]
    assert [i for some in found for i in some] == list(range(n))
    assert all(0 < len(some) <= size for some in found)
    assert len(found) == -(-n // size)
