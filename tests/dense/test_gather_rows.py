"""Reading between pixels: values, gradients of every order, edges, NaN, dtypes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.ndimage import map_coordinates

from reference.dense import bilinear
from xmodal_losses import dense

SIZES = [(5, 7), (1, 6), (6, 1), (1, 1), (2, 2)]


def draw(height, width, batch=2, channels=3, places=11, margin=1.5, seed=0):
    """Return a map, and positions in it and around it."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(batch, channels, height, width))
    span = np.array([width - 1, height - 1]) + 2 * margin
    positions = rng.uniform(size=(batch, places, 2)) * span - margin
    return torch.from_numpy(features), torch.from_numpy(positions)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_it_is_the_reference(height, width, whole):
    features, positions = draw(height, width)
    positions = positions.round() if whole else positions
    expected = [
        bilinear(m, p) for m, p in zip(features.numpy(), positions.numpy(), strict=True)
    ]
    assert_allclose(dense.gather_rows(features, positions), expected, rtol=1e-12)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_it_is_scipys_interpolation(height, width):
    features, positions = draw(height, width)
    at = positions.flip(-1).numpy()  # (y, x)
    expected = [
        [map_coordinates(c.numpy(), p.T, order=1, mode="nearest") for c in m]
        for m, p in zip(features, at, strict=True)
    ]
    found = dense.gather_rows(features, positions).transpose(1, 2)
    assert_allclose(found, np.array(expected), rtol=1e-10, atol=1e-12)


def grid_sample(features, positions):
    height, width = features.shape[-2:]
    grid = 2 * positions / positions.new_tensor([width - 1, height - 1]) - 1
    rows = nnf.grid_sample(
        features, grid[:, None], align_corners=True, padding_mode="border"
    )
    return rows[:, :, 0].transpose(1, 2)


def test_it_is_torchs_grid_sample_and_so_are_its_gradients():
    inputs = [t.requires_grad_() for t in draw(5, 7)]
    found, expected = dense.gather_rows(*inputs), grid_sample(*inputs)
    assert_allclose(found.detach(), expected.detach(), rtol=1e-10, atol=1e-12)
    upstream = torch.randn_like(found)
    pairs = zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    )
    for grad, reference in pairs:
        assert reference.abs().sum() > 0
        assert_allclose(grad, reference, rtol=1e-9, atol=1e-11)


@given(seed=st.integers(0, 10**6), height=st.integers(1, 9), width=st.integers(1, 9))
def test_products_of_linear_functions_are_exact(seed, height, width):
    rng = np.random.default_rng(seed)
    a, b, c, d = rng.normal(size=4)
    y, x = np.mgrid[:height, :width]
    features = torch.from_numpy(((a + b * x) * (c + d * y))[None, None])
    at = rng.uniform(size=(1, 8, 2)) * [width - 1, height - 1]
    expected = (a + b * at[..., :1]) * (c + d * at[..., 1:])
    found = dense.gather_rows(features, torch.from_numpy(at))
    assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_gradients_of_first_and_second_order(height, width):
    features, positions = draw(height, width, places=4)
    inputs = features.requires_grad_(), positions.requires_grad_()
    assert torch.autograd.gradcheck(dense.gather_rows, inputs)
    assert torch.autograd.gradgradcheck(dense.gather_rows, inputs)


def test_gradient_of_places_that_share_pixels_adds_up():
    features = torch.zeros(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    positions = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [1.5, 1.0], [0.5, 0.5]]])
    dense.gather_rows(features, positions).sum().backward()
    expected = [[0.25, 0.25, 0], [0.25, 2.75, 0.5], [0, 0, 0]]
    assert_allclose(features.grad[0, 0], expected, rtol=1e-12)


def test_slopes_at_whole_numbers_and_beyond_the_edge():
    features = torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=torch.float64)[None, None, None]
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0, 2.5, 3.0, 4.0], dtype=torch.float64)
    positions = torch.stack((x, torch.zeros_like(x)), -1)[None].requires_grad_()
    dense.gather_rows(features, positions).sum().backward()
    # Towards larger x; at the last pixel towards smaller ones.
    assert positions.grad[0, :, 0].tolist() == [0, 1, 3, 5, 5, 5, 0]
    assert positions.grad[0, :, 1].tolist() == [0] * 7


def test_function_transforms():
    features, positions = draw(4, 5, batch=3)

    def loss(features, positions):
        return dense.gather_rows(features, positions).square().sum()

    inputs = features.requires_grad_(), positions.requires_grad_()
    expected = torch.autograd.grad(loss(*inputs), inputs)
    inputs = features.detach(), positions.detach()
    for k in (0, 1):
        grad = torch.func.grad(loss, argnums=k)(*inputs)
        assert_allclose(grad, expected[k], rtol=1e-12, atol=1e-14)
    # At whole numbers, too, positions are known to be differentiated.
    whole = positions.detach().round().requires_grad_()
    (reference,) = torch.autograd.grad(loss(features.detach(), whole), whole)
    grad = torch.func.grad(loss, argnums=1)(features.detach(), whole.detach())
    assert reference.abs().sum() > 0
    assert_allclose(grad, reference, rtol=1e-12, atol=1e-14)

    rows = torch.func.vmap(lambda m, p: dense.gather_rows(m[None], p[None])[0])(*inputs)
    assert_allclose(rows, dense.gather_rows(*inputs), rtol=1e-12)


# ------------------------------------------------------------------ whole numbers, NaN

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "index", [torch.float32, torch.float64, torch.int64, torch.int32]
)
def test_whole_numbers_are_the_pixels(dtype, index):
    features = (1e3 * torch.randn(2, 3, 6, 9)).to(dtype)
    y, x = torch.meshgrid(torch.arange(6), torch.arange(9), indexing="ij")
    positions = torch.stack((x, y), -1).view(1, -1, 2).expand(2, -1, -1).to(index)
    rows = dense.gather_rows(features, positions)
    assert rows.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(rows, features.flatten(2).transpose(1, 2).to(rows.dtype))


def test_integers_outside_are_clamped():
    features, _ = draw(5, 7)
    positions = torch.tensor([[-3, 2], [9, -1], [6, 50]]).expand(2, -1, -1)
    expected = dense.gather_rows(features, positions.double())
    assert torch.equal(dense.gather_rows(features, positions), expected)
    assert torch.equal(expected[:, 2], features[:, :, 4, 6])


def test_pixels_without_a_share_are_not_read():
    features, _ = draw(4, 5)
    features[:, :, 1:3, 2:4] = torch.nan
    features.requires_grad_()
    at = [
        (1, 1),
        (1.0, 2.0),
        (4, 1),
        (2.0, 0.0),
        (2.5, 0.0),
        (3, 3),
        (4, 2.5),
        (1, 2.5),
    ]
    positions = torch.tensor(at, dtype=torch.float64).expand(2, -1, -1)
    rows = dense.gather_rows(features, positions)
    assert rows.isfinite().all()
    rows.sum().backward()
    assert features.grad.isfinite().all()
    assert (features.grad[:, :, 1:3, 2:4] == 0).all()
    assert_allclose(features.grad.sum((2, 3)), len(at))
    # A share, however small, is one.
    assert dense.gather_rows(features, positions + 1e-9)[:, 0].isnan().all()
    # A gradient of positions is made of the neighbour.
    spread = dense.gather_rows(features, positions.clone().requires_grad_())
    assert spread[:, 0].isnan().all()


def test_positions_that_are_no_numbers():
    features, positions = draw(5, 7)
    positions[:, 0, 0] = torch.nan
    positions[:, 1, 0] = torch.inf
    positions[:, 2, 1] = -torch.inf
    rows = dense.gather_rows(features, positions)
    assert rows[:, 0].isnan().all()
    assert rows[:, 1:].isfinite().all()
    positions[:, 1, 0], positions[:, 2, 1] = 6, 0
    assert torch.equal(rows[:, 1:], dense.gather_rows(features, positions)[:, 1:])


# ------------------------------------------------------------------ dtypes, layouts


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_16_bit_maps_are_interpolated_in_32(dtype):
    features, positions = draw(40, 50, places=200, margin=0)
    features = features.to(dtype).requires_grad_()
    positions = positions.float()
    rows = dense.gather_rows(features, positions)
    assert rows.dtype == torch.float32
    wide = features.detach().double().requires_grad_()
    exact = dense.gather_rows(wide, positions.double())
    assert_allclose(rows.detach(), exact.detach(), rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(rows)
    rows.backward(upstream)
    exact.backward(upstream.double())
    assert features.grad.dtype == dtype
    ulp = torch.finfo(dtype).eps * max(1, upstream.abs().max().item())
    assert (features.grad - wide.grad).abs().max() < 4 * ulp


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_16_bit_positions_are_taken_at_their_word(dtype):
    features, positions = draw(5, 7)
    positions = positions.to(dtype)
    rows = dense.gather_rows(features.float(), positions)
    assert torch.equal(rows, dense.gather_rows(features.float(), positions.float()))


def test_autocast_does_not_round():
    features, positions = draw(5, 7)
    features, positions = features.float(), positions.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = dense.gather_rows(features, positions)
    assert torch.equal(rows, dense.gather_rows(features, positions))


def test_memory_formats():
    features, positions = draw(5, 7, channels=4)
    rows = dense.gather_rows(features, positions)
    last = features.to(memory_format=torch.channels_last)
    assert torch.equal(dense.gather_rows(last, positions), rows)
    wide = features.repeat_interleave(2, -1)[..., ::2]
    assert torch.equal(dense.gather_rows(wide, positions), rows)


def test_no_places():
    features, positions = draw(5, 7)
    features.requires_grad_()
    rows = dense.gather_rows(features, positions[:, :0])
    assert rows.shape == (2, 0, 3)
    rows.sum().backward()
    assert (features.grad == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("learned", [False, True])
def test_it_compiles(learned):
    features, positions = draw(5, 7)
    inputs = features.requires_grad_(), positions.round().requires_grad_(learned)
    wanted = inputs if learned else inputs[:1]
    torch._dynamo.reset()
    compiled = torch.compile(dense.gather_rows, fullgraph=True, backend="aot_eager")
    rows, expected = compiled(*inputs), dense.gather_rows(*inputs)
    assert_allclose(rows.detach(), expected.detach(), rtol=1e-12)
    upstream = torch.randn_like(rows)
    for grad, reference in zip(
        torch.autograd.grad(rows, wanted, upstream),
        torch.autograd.grad(expected, wanted, upstream),
        strict=True,
    ):
        assert_allclose(grad, reference, rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("argument", "value", "exception"),
    [
        ("features", [[1.0]], TypeError),
        ("features", torch.zeros(2, 3, 5, 7, dtype=torch.int64), TypeError),
        ("features", torch.zeros(3, 5, 7), ValueError),
        ("features", torch.zeros(2, 3, 0, 7), ValueError),
        ("positions", [[1.0, 2.0]], TypeError),
        ("positions", torch.zeros(2, 4, 2, dtype=torch.complex64), TypeError),
        ("positions", torch.zeros(4, 2), ValueError),
        ("positions", torch.zeros(1, 4, 2), ValueError),
        ("positions", torch.zeros(2, 4, 3), ValueError),
    ],
)
def test_bad_input_is_refused(argument, value, exception):
    inputs = {"features": torch.zeros(2, 3, 5, 7), "positions": torch.zeros(2, 4, 2)}
    with pytest.raises(
        exception, match=rf"^gather_rows: {argument} must be .+, got .+"
    ):
        dense.gather_rows(**inputs | {argument: value})
