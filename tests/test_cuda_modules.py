"""What else runs on a GPU: views, centres, places, state, chunks, tests of samples."""

import copy

import pytest
import torch
from numpy.testing import assert_allclose

import view_specs
import xmodal_losses as xl
import xmodal_losses.functional as F
from waiting import without_waiting
from xmodal_losses import dense, two_sample

pytestmark = pytest.mark.cuda
DEVICE = "cuda"

CLOSE = {"rtol": 1e-7, "atol": 1e-10}


def seeded(device="cpu"):
    return torch.Generator(device).manual_seed(0)


def batch(rows=24, width=4, lead=(), shift=0.3, seed=0):
    """Return two related batches in float64, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    z_a, noise = torch.randn(
        2, *lead, rows, width, generator=generator, dtype=torch.float64
    )
    return z_a, z_a + 0.7 * noise + shift


def moved(tensors, device):
    """Return copies there; what is real is a leaf."""
    out = {}
    for name, tensor in tensors.items():
        out[name] = tensor.detach().to(device, copy=True)
        out[name].requires_grad_(tensor.is_floating_point())
    return out


def run(function, tensors):
    """Return the sum of what a function returns, and all gradients of it."""
    value = function(**tensors).sum()
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    return [value.detach(), *(grad for grad in grads if grad is not None)]


def same(here, there, **tolerance):
    assert len(here) == len(there)
    for one, other in zip(there, here, strict=True):
        assert one.device.type == DEVICE
        assert_allclose(one.detach().cpu(), other.detach(), **(tolerance or CLOSE))


# ------------------------------------------------------------------ functions


@view_specs.each_covering_view_case
def test_losses_of_views(spec, case):
    inputs = spec.draw(case)
    expected = view_specs.value_and_grad(spec, inputs, **case.options)
    tensors = view_specs.to_torch(inputs)
    for name in ("mask", "weight"):
        if name in tensors:
            tensors[name] = tensors[name].to(DEVICE)
    tensors["views"] = [z.detach().to(DEVICE) for z in tensors["views"]]
    for z in tensors["views"]:
        z.requires_grad_()
    value = spec(tensors, **case.options)
    value.backward()
    same(expected, [value, *(z.grad for z in tensors["views"])])


def _pair(**rest):
    z_a, z_b = batch()
    return {"z_a": z_a, "z_b": z_b, **rest}


def _places():
    z_a, z_b = batch(5, 3, (3,))
    positions = torch.rand(2, 3, 5, 2, generator=seeded(), dtype=torch.float64)
    return {
        "z_a": z_a,
        "z_b": z_b,
        "positions_a": positions[0],
        "positions_b": positions[1],
    }


def _noise():
    z, z_noise = batch()
    x, noise = batch(24, 3, seed=1)
    return {"z": z, "z_noise": z_noise, "x": x, "noise": noise}


# What is called, and on what.
FUNCTIONS = {
    "contrastive_center": (
        F.contrastive_center,
        {
            "z": batch()[0],
            "labels": torch.arange(24) % 5,
            "centers": batch(5, seed=2)[0],
        },
    ),
    "info_nce_terms": (
        lambda **t: torch.stack([x.sum() for x in F.info_nce_terms(**t)]),
        _pair(),
    ),
    "mmd, median": (
        lambda **t: F.mmd(**t, kernel=xl.GaussianKernel("median")),
        _pair(),
    ),
    "mmd_variance": (F.mmd_variance, _pair()),
    "eckart_young": (
        lambda z_a, z_b: F.eckart_young([z_a, z_b]),
        _pair(),
    ),
    "noise_regularization": (
        lambda **t: F.noise_regularization(**t, chance_corrected=True),
        _noise(),
    ),
    "vicreg_local": (F.vicreg_local, _places()),
    "vicreg_local, features": (
        lambda **t: F.vicreg_local(**t, matching="features", num_matches=3),
        {name: _places()[name] for name in ("z_a", "z_b")},
    ),
    "gather_rows": (
        dense.gather_rows,
        {
            "features": torch.rand(2, 3, 6, 8, generator=seeded()).double(),
            "positions": 5 * torch.rand(2, 9, 2, generator=seeded()).double(),
        },
    ),
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


@each_function
def test_functions(name):
    function, tensors = FUNCTIONS[name]
    here, there = (run(function, moved(tensors, d)) for d in ("cpu", DEVICE))
    same(here, there)


@each_function
def test_functions_do_not_wait(name):
    function, tensors = FUNCTIONS[name]
    tensors = moved(tensors, DEVICE)
    run(function, tensors)
    with without_waiting():
        run(function, tensors)


# ------------------------------------------------------------------ modules


def test_a_learned_temperature():
    z_a, z_b = batch()
    found = []
    for device in ("cpu", DEVICE):
        criterion = xl.InfoNCELoss(learn_temperature=True).to(device)
        pair = z_a.to(device), z_b.to(device)
        criterion(*pair).backward()
        if device == "cuda":
            with without_waiting():
                criterion(*pair)
        found.append([criterion.log_temperature.grad])
    same(*found, rtol=1e-5)  # a parameter of float32


def test_a_queue_of_negatives():
    found = []
    for device in ("cpu", DEVICE):
        queue = xl.EmbeddingQueue(30, 4).to(device)
        for seed in (1, 2):
            queue.enqueue(*(z.float().to(device) for z in batch(seed=seed)))
        found.append(
            run(
                lambda z_a, z_b, queue=queue: F.info_nce(
                    z_a, z_b, extra=queue.negatives()
                ),
                moved(_pair(), device),
            )
        )
    same(*found)


@pytest.mark.parametrize("norms", [False, True])
def test_the_objective(norms):
    z_a, z_b = batch()
    found = []
    for device in ("cpu", DEVICE):
        objective = xl.CrossModalObjective().to(device)
        pair = moved({"z_a": z_a, "z_b": z_b}, device)

        def step(objective=objective, pair=pair):
            value = objective(**pair, gradient_norms=norms)
            return value, torch.autograd.grad(value.total, list(pair.values()))

        value, grads = step()
        if device == "cuda":
            with without_waiting():
                step()
        more = value.gradient_norms.values() if norms else ()
        found.append([value.total, *value.terms.values(), *grads, *more])
    same(*found)


@pytest.mark.parametrize("name", ["vicreg", "dcca"])
def test_running_moments(name):
    criteria = {"vicreg": xl.VICRegLoss(), "dcca": xl.DCCALoss(ridge=0.1)}
    found = []
    for device in ("cpu", DEVICE):
        running = xl.RunningMoments(copy.deepcopy(criteria[name]), 4, 4).to(device)
        found.append([])
        for seed in range(3):
            z_a, z_b = batch(seed=seed)
            tensors = moved({"z_a": z_a, "z_b": z_b}, device)
            if device == "cuda" and name == "vicreg" and seed:
                with without_waiting():
                    found[-1] += run(running, tensors)
            else:
                found[-1] += run(running, tensors)
    same(*found)


@pytest.mark.parametrize(
    "criterion",
    [xl.VICRegLoss(), xl.CORALLoss(), xl.BarlowTwinsLoss(), xl.DCCALoss(ridge=0.1)],
    ids=lambda criterion: type(criterion).__name__,
)
def test_a_batch_in_chunks(criterion):
    expected = run(criterion, moved(_pair(), "cpu"))
    chunked = xl.ChunkedMoments(criterion)
    tensors = moved(_pair(), DEVICE)
    parts = list(zip(tensors["z_a"].split(10), tensors["z_b"].split(10), strict=True))
    for part in parts:
        chunked.update(*part)
    total = sum(chunked.share(*part) for part in parts)
    grads = torch.autograd.grad(total, list(tensors.values()))
    same(expected, [total, *grads])


def test_cached_backward_replays_the_draws_of_the_device():
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(
        torch.nn.Linear(4, 32), torch.nn.Dropout(0.5), torch.nn.Linear(32, 8)
    )
    encoder = encoder.double().to(DEVICE)
    seen = []

    def encode(chunk):
        seen.append([encoder(z) for z in chunk])
        return seen[-1]

    z_a, z_b = (z.to(DEVICE) for z in batch())
    chunks = list(zip(z_a.split(7), z_b.split(7), strict=True))
    xl.cached_backward(xl.InfoNCELoss(), encode, chunks)
    first, second = seen[: len(chunks)], seen[len(chunks) :]
    for one, other in zip(first, second, strict=True):
        assert all(map(torch.equal, one, other))
    assert not torch.equal(encode(chunks[0])[0], first[0][0])
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_a_projector():
    found = []
    for device in ("cpu", DEVICE):
        z_a, z_b = (z.to(device) for z in batch(60))
        projector = xl.CCAProjector(4, 4, num_components=3, ridge=1e-3).to(device)
        projector.update(z_a[:20], z_b[:20])
        if device == "cuda":
            with without_waiting():
                projector.update(z_a[20:], z_b[20:])
        else:
            projector.update(z_a[20:], z_b[20:])
        projector.fit()
        u, v = projector.transform(z_a, z_b)
        # The sign of a component means nothing, but both have it.
        found.append([projector.correlations, u * v, u.abs()])
    same(*found)


# ------------------------------------------------------------------ dense


@pytest.mark.parametrize("method", ["grid", "random", "stratified", "weighted"])
def test_rows_of_maps_do_not_wait(method):
    maps = [
        torch.rand(2, 3, 16, 16, device=DEVICE, requires_grad=True) for _ in range(2)
    ]
    options = {"method": method, "generator": seeded(DEVICE), "jitter": 1.0}
    if method == "weighted":
        options["scores"] = torch.rand(2, 16, 16, device=DEVICE)

    def step():
        rows = dense.paired_rows(*maps, 9, **options)
        loss = F.info_nce(
            rows.z_a, rows.z_b, ids=rows.ids, weight=rows.weight, negatives="all"
        )
        return torch.autograd.grad(loss, maps)

    step()
    with without_waiting():
        grads = step()
    assert all(grad.isfinite().all() for grad in grads)


# ------------------------------------------------------------------ two samples


@pytest.mark.parametrize("paired", [False, True])
def test_kernel_test_draws_as_on_the_cpu(paired):
    z_a, z_b = batch(40, shift=0.6)
    results = [
        two_sample.kernel_test(
            z_a.to(device),
            z_b.to(device),
            xl.GaussianKernel("median"),
            paired=paired,
            permutations=199,
            generator=seeded(),
        )
        for device in ("cpu", DEVICE)
    ]
    here, there = results
    assert there.p_value == pytest.approx(here.p_value, abs=0.011)  # two of 200 draws
    assert there.statistic == pytest.approx(here.statistic, rel=1e-9)
    assert here.rejected == there.rejected


def test_a_deep_kernel_is_learned():
    z_a, z_b = batch(60, shift=1.0)
    results, histories = [], []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        kernel = xl.DeepKernel(torch.nn.Linear(4, 3)).double().to(device)
        parts = two_sample.split(z_a.to(device), z_b.to(device), generator=seeded())
        histories.append(
            two_sample.fit_kernel(
                parts.train_a, parts.train_b, kernel, steps=5, generator=seeded()
            )
        )
        results.append(
            two_sample.kernel_test(
                parts.test_a,
                parts.test_b,
                kernel,
                permutations=99,
                generator=seeded(),
            )
        )
    same(histories[:1], histories[1:], rtol=1e-6)
    here, there = results
    assert there.statistic == pytest.approx(here.statistic, rel=1e-5)
    assert here.rejected == there.rejected
    generator = seeded(DEVICE)
    kernel = xl.DeepKernel(torch.nn.Linear(4, 3)).double().to(DEVICE)
    assert two_sample.deep_kernel_test(
        z_a.to(DEVICE), z_b.to(DEVICE) + 2, kernel, steps=3, generator=generator
    ).rejected
