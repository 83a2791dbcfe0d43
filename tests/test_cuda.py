"""Every loss on a GPU: the numbers of the CPU, nothing waits, one graph replays.

What is not of a single pair of batches is in test_cuda_modules.py.
"""

import copy
import shutil

import pytest
import torch
from numpy.testing import assert_allclose

from harness import MASKS, Case, to_torch
from specs import BY_NAME, SPECS, covering, each_loss
from tolerances import ROUNDING, STRESS
from waiting import without_waiting

pytestmark = pytest.mark.cuda
DEVICE = "cuda"

VIEWS = ("z_a", "z_b")
LARGE = Case(rows=(32, 32), dims=(8, 8), lead=(2,), weighted=True)

# Who waits for the device, and where: a decomposition of torch tells the host whether
# it has converged.
DECOMPOSED = {
    "coral": lambda options: options.get("metric") in ("log_euclidean", "bures"),
    "dcca": lambda options: (
        options.get("objective") != "frobenius"
        or options.get("num_components") is not None
    ),
}


def decomposes(spec, case):
    return DECOMPOSED.get(spec.name, lambda options: False)(case.options)


def cases(keep=lambda spec, case: True):
    """Parametrize by loss and case: every option value, weights, every mask."""
    rows = {}
    for spec in SPECS:
        masked = [
            next((case for case in spec.cases if getattr(case, name)), None)
            for name in MASKS
        ]
        for case in (*covering(spec), LARGE, *filter(None, masked)):
            if keep(spec, case):
                rows[f"{spec.name}-{case}"] = spec, case
    return pytest.mark.parametrize(
        ("spec", "case"), [pytest.param(*row, id=key) for key, row in rows.items()]
    )


each_case = cases()
each_that_waits = cases(decomposes)
each_that_does_not = cases(lambda spec, case: not decomposes(spec, case))


@pytest.fixture(autouse=True)
def _all_digits():
    """Hold torch to its default: matrices of float32 are not rounded to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def on(device, inputs, dtype=None):
    """Return copies of tensors on a device; the views are leaves."""
    moved = {}
    for name, tensor in inputs.items():
        real = tensor.is_floating_point()
        moved[name] = tensor.detach().to(device, dtype if real else None, copy=True)
        moved[name].requires_grad_(name in VIEWS)
    return moved


def module_on(device, spec, case):
    """Return the module there; kernels of a table of cases stay where they are."""
    return copy.deepcopy(spec.build(case.options)).to(device)


def run(module, tensors):
    """Return value and gradients."""
    value = module(**tensors)
    return value, *torch.autograd.grad(value, [tensors[name] for name in VIEWS])


def of_the_cpu(spec, case, inputs):
    """Return value and gradients in float64 of the very numbers given."""
    return run(module_on("cpu", spec, case), on("cpu", inputs, torch.float64))


def drawn(spec, case, dtype, seed=67):
    return on(DEVICE, to_torch(spec.draw(case, seed), dtype))


def close(found, expected, rtol, atol=1e-6):
    """Compare a value, and gradients by the size of the whole."""
    value, *grads = (x.detach().cpu().double() for x in found)
    true_value, *true_grads = (x.detach().cpu() for x in expected)
    assert_allclose(value, true_value, rtol=rtol, atol=atol)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert (grad - true_grad).norm() <= rtol * true_grad.norm() + atol


# ------------------------------------------------------------------ numbers


@each_case
def test_float64_is_that_of_the_cpu(spec, case):
    tensors = drawn(spec, case, torch.float64)
    value, *grads = run(module_on(DEVICE, spec, case), tensors)
    true_value, *true_grads = of_the_cpu(spec, case, tensors)
    assert value.device.type == DEVICE
    assert_allclose(value.detach().cpu(), true_value.detach(), rtol=1e-9, atol=1e-12)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert_allclose(grad.cpu(), true_grad, rtol=1e-7, atol=1e-10)


@each_case
def test_float32_is_near_the_float64_of_the_cpu(spec, case):
    tensors = drawn(spec, case, torch.float32)
    found = run(module_on(DEVICE, spec, case), tensors)
    assert found[0].dtype == torch.float32
    close(found, of_the_cpu(spec, case, tensors), STRESS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_loss
def test_autocast_takes_no_digit(spec, dtype):
    tensors = drawn(spec, LARGE, torch.float32)
    module = module_on(DEVICE, spec, LARGE)
    with torch.autocast(DEVICE, dtype):
        found = run(module, tensors)
    assert found[0].dtype == torch.float32
    close(found, of_the_cpu(spec, LARGE, tensors), STRESS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_loss
def test_rows_of_16_bits(spec, dtype):
    """As a network under autocast returns them.

    Products may round their operands to bfloat16 once more, where rows are bfloat16,
    and logits are up to 1/τ = 14 times as large as cosines; gradients have the dtype of
    the rows.
    """
    case = Case(rows=(32, 32), dims=(16, 16))
    tensors = on(DEVICE, to_torch(spec.draw(case, 68)), dtype)
    module = module_on(DEVICE, spec, case)
    with torch.autocast(DEVICE, dtype):
        found = run(module, tensors)
    assert found[0].dtype == torch.float32
    assert found[1].dtype == dtype
    value, *grads = of_the_cpu(spec, case, tensors)
    allowed = 4 if dtype == torch.bfloat16 else 1
    error = abs(found[0].item() - value.item())
    assert error <= allowed * ROUNDING[dtype] * max(abs(value.item()), 1e-2)
    for grad, true_grad in zip(found[1:], grads, strict=True):
        error = (grad.cpu().double() - true_grad).norm() / true_grad.norm()
        assert error <= allowed * ROUNDING[dtype]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("info_nce", torch.float32),
        ("info_nce", torch.bfloat16),
        ("sup_con", torch.float32),
        ("sigmoid_contrastive", torch.float32),
        ("similarity_preservation", torch.float32),
        ("mmd", torch.float32),
    ],
    ids=str,
)
def test_more_rows_than_are_held_at_once(name, dtype):
    """Tiles of the device's own size, and others, at sizes that they do not divide."""
    spec = BY_NAME[name]
    case = Case(rows=(8500, 8500), dims=(16, 16))
    tensors = drawn(spec, case, dtype)
    one, other = (
        run(module_on(DEVICE, spec, Case(options)), tensors)
        for options in ({}, {"chunk_size": 1500})
    )
    rtol = 1e-4 if dtype == torch.float32 else 4 * ROUNDING[dtype]
    close(one, [x.double() for x in other], rtol, atol=1e-7)


# ------------------------------------------------------------------ waiting


def warm(module, tensors):
    """Run until libraries are loaded and memory has been asked for."""
    for _ in range(2):
        run(module, tensors)
    torch.cuda.synchronize()


@each_that_does_not
def test_nothing_waits_for_the_device(spec, case):
    tensors, module = drawn(spec, case, torch.float32), module_on(DEVICE, spec, case)
    warm(module, tensors)
    with without_waiting():
        run(module, tensors)


@each_that_waits
def test_decompositions_do(spec, case):
    """Who is said to wait does: else he would have no graph for no reason."""
    tensors, module = drawn(spec, case, torch.float32), module_on(DEVICE, spec, case)
    warm(module, tensors)
    with without_waiting(), pytest.raises(RuntimeError, match="synchronizing CUDA"):
        run(module, tensors)


def captured(module, static):
    """Return a graph of both passes, and where it leaves value and gradients."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        warm(module, static)
        with without_waiting():  # what waits is found here, not by a broken capture
            run(module, static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run(module, static)
    return graph, found


@each_that_does_not
def test_a_graph_of_both_passes_replays(spec, case):
    static, module = drawn(spec, case, torch.float32), module_on(DEVICE, spec, case)
    graph, found = captured(module, static)
    for seed in (70, 71):
        tensors = drawn(spec, case, torch.float32, seed)
        with torch.no_grad():
            for name, tensor in tensors.items():
                static[name].copy_(tensor)
        graph.replay()
        # Sums by classes are in the order in which their terms arrive.
        close(found, [x.double() for x in run(module, tensors)], 1e-4, 1e-6)


# ------------------------------------------------------------------ compilation


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("gcc") is None and shutil.which("clang") is None,
    reason="inductor needs a C compiler",
)
@pytest.mark.filterwarnings("ignore")  # whatever the toolchain has to say
@pytest.mark.parametrize("name", ["info_nce", "mmd", "vicreg", "coral"])
def test_compiles_with_inductor(name):
    torch._dynamo.reset()
    spec = BY_NAME[name]
    case = Case(rows=(64, 64), dims=(16, 16))
    tensors, module = drawn(spec, case, torch.float32), module_on(DEVICE, spec, case)
    found = run(torch.compile(module, fullgraph=True), tensors)
    close(found, of_the_cpu(spec, case, tensors), STRESS)
