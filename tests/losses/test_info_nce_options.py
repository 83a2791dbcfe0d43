"""What else InfoNCE takes: a guide and extra negatives, and how options combine.

Margin, direction weight and the hardest negatives alone are in the table of specs; here
are what comes with tensors of its own, beside every mask, on one process and on ranks.
"""

import math
from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import xmodal_losses as xl
import xmodal_losses.functional as F
from harness import Case, to_torch, with_grad
from reference.gradient import complex_step
from reference.info_nce import info_nce as reference
from specs import BY_NAME
from tolerances import GRADIENT, SAME

SPEC = BY_NAME["info_nce"]
GROUPS, N, K, D = 3, 4, 5, 3
MASKS = {"none": {}, "all": dict.fromkeys(("exclude", "ids", "weighted"), True)}


def _guide(seed=1):
    """Guides that find about a third of the negatives alike."""
    rng = np.random.default_rng(seed)
    g_a = rng.normal(size=(GROUPS, N, 6))
    return g_a, g_a + rng.normal(size=g_a.shape)


def _extra(kind, told, seed=2):
    """Return (a, b, ids, valid) as given, and repeated for every row."""
    rng = np.random.default_rng(seed)
    lead = {"shared": (), "group": (GROUPS,), "row": (GROUPS, N)}[kind]
    parts = [rng.normal(size=(*lead, K, D)) for _ in range(2)]
    parts += [rng.integers(0, 3, size=(*lead, K)), rng.random(size=(*lead, K)) < 0.6]
    parts = [part if i < 2 or told else None for i, part in enumerate(parts)]

    def repeated(part, width):
        if part is None:
            return None
        some = part.reshape(*lead, *(1,) * (2 - len(lead)), *part.shape[len(lead) :])
        return np.broadcast_to(some, (GROUPS, N, *some.shape[-width:]))

    return parts, [repeated(part, 2 if i < 2 else 1) for i, part in enumerate(parts)]


def _tensors(parts):
    return xl.ExtraNegatives(
        *(None if part is None else torch.tensor(part) for part in parts)
    )


def _check(inputs, given, repeated, guide, options):
    """Compare values and gradients, in the rows and in the extra ones."""
    ours = dict(options)
    theirs = dict(options)
    extra = None
    if given is not None:
        extra = _tensors(given)
        extra.a.requires_grad_()
        extra.b.requires_grad_()
        ours["extra"], theirs["extra"] = extra, repeated
    if guide is not None:
        ours["guide"] = tuple(map(torch.tensor, guide))
        theirs["guide"] = guide
    tensors = to_torch(inputs)
    value = F.info_nce(**tensors, **ours, reduction="none")
    assert_allclose(
        value.detach(), reference(**inputs, **theirs, reduction="none"), **SAME
    )
    value.sum().backward()
    views = {k: inputs[k] for k in ("z_a", "z_b")}
    rest = {k: v for k, v in inputs.items() if k not in views}
    for name in views:

        def loss(z, name=name):
            return reference(**(views | {name: z}), **rest, **theirs, reduction="sum")

        (expected,) = complex_step(loss, [views[name]])
        assert_allclose(tensors[name].grad, expected, **GRADIENT)
    if extra is not None:
        for which, rows in enumerate((extra.a, extra.b)):

            def of_extra(z, which=which, rows=rows):
                some = list(given)
                some[which] = z
                lead = rows.shape[:-2]
                shape = (*lead, *(1,) * (2 - len(lead)), K, D)
                every = list(repeated)
                every[which] = np.broadcast_to(z.reshape(shape), (GROUPS, N, K, D))
                return reference(
                    **inputs, **(theirs | {"extra": every}), reduction="sum"
                )

            (expected,) = complex_step(of_extra, [given[which]])
            if not options.get("symmetric", True) and which == 0:
                assert rows.grad is None  # of the other direction
                assert not expected.any()
            else:
                assert_allclose(rows.grad, expected, **GRADIENT)


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", ["shared", "group", "row"])
def test_extra_negatives(kind, mask, negatives):
    inputs = SPEC.draw(Case({}, (N, N), (D, D), (GROUPS,), **MASKS[mask]), seed=3)
    given, repeated = _extra(kind, told=mask == "all")
    variants = (
        {"temperature": 0.3, "chunk_size": 2},
        {"temperature": 0.8, "normalize": False, "symmetric": False},
        {"temperature": 0.3, "hardest": 3, "margin": 0.4, "direction_weight": 0.7},
    )
    for options in variants:
        _check(inputs, given, repeated, None, options | {"negatives": negatives})


@pytest.mark.parametrize("negatives", ["group", "all", "cross"])
@pytest.mark.parametrize("mask", MASKS)
def test_guide(mask, negatives):
    inputs = SPEC.draw(Case({}, (N, N), (D, D), (GROUPS,), **MASKS[mask]), seed=4)
    given, repeated = _extra("shared", told=mask == "all")
    guide = _guide()
    for options in (
        {"temperature": 0.3, "chunk_size": 2},
        {"temperature": 0.8, "normalize": False, "guide_margin": -0.1},
        {"temperature": 0.3, "symmetric": False, "guide_margin": 0.2},
        {"temperature": 0.3, "hardest": 2, "direction_weight": 0.7},
    ):
        some = options | {"negatives": negatives}
        _check(inputs, None, None, guide, some)
        if "hardest" in options:
            _check(inputs, given, repeated, guide, some)


def test_a_guide_leaves_some_out():
    """The grid above would be of little use if it did not."""
    g_a, g_b = (g / np.linalg.norm(g, axis=-1, keepdims=True) for g in _guide())
    likeness = np.einsum("gid,gjd->gij", g_a, g_b)
    alike = likeness > np.einsum("gii->gi", likeness)[:, :, None]
    assert 0 < alike.mean() < 0.5


def test_a_batch_is_its_own_guide():
    """What is harder than the partner by more than −margin is left out."""
    z_a, z_b = torch.randn(2, 6, 3, dtype=torch.float64)
    guided = F.info_nce(
        z_a, z_b, guide=(z_a, z_b), guide_margin=-0.1, symmetric=False, reduction="none"
    )
    unit = torch.nn.functional.normalize
    s = unit(z_a, dim=1) @ unit(z_b, dim=1).T
    own = s.diagonal().unsqueeze(1)
    scores = s.masked_fill(
        (s > own + 0.1) & ~torch.eye(6, dtype=torch.bool), -torch.inf
    )
    expected = (scores / 0.07).logsumexp(1) - own.squeeze(1) / 0.07
    assert_allclose(guided, expected, rtol=1e-9)


def test_no_gradient_goes_into_a_guide():
    z_a, z_b = torch.randn(2, 6, 3, dtype=torch.float64)
    guide = (z_a.clone().requires_grad_(), z_b.clone().requires_grad_())
    z_a.requires_grad_()
    F.info_nce(z_a, z_b, guide=guide).backward()
    assert all(g.grad is None for g in guide)


@pytest.mark.parametrize("k", [1, 2, 5, 6, 100])
def test_the_hardest_of_a_batch_and_of_a_queue(k):
    z_a, z_b = torch.randn(2, 4, 3, dtype=torch.float64)
    extra = xl.ExtraNegatives(b=torch.randn(3, 3, dtype=torch.float64))
    value = F.info_nce(z_a, z_b, hardest=k, extra=extra, symmetric=False)
    unit = torch.nn.functional.normalize
    every = torch.cat((unit(z_b, dim=1), unit(extra.b, dim=1)))
    s = unit(z_a, dim=1) @ every.T / 0.07
    off = s.masked_fill(torch.eye(4, 7, dtype=torch.bool), -torch.inf)
    negatives = off.topk(min(k, 6), 1).values.logsumexp(1)
    expected = torch.nn.functional.softplus(negatives - s.diagonal(), threshold=40)
    assert_allclose(value, expected.mean(), rtol=1e-10)


def test_all_hardest_is_all():
    z_a, z_b = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    for negatives in ("group", "all", "cross"):
        one, other = (
            with_grad(
                lambda a, b, k=k, n=negatives: F.info_nce(a, b, hardest=k, negatives=n),
                z_a,
                z_b,
            )
            for k in (None, 100)
        )
        for x, y in zip(one, other, strict=True):
            assert_allclose(x, y, rtol=1e-10, atol=1e-12)


def test_tied_negatives_stay_together():
    z_a = torch.eye(4, dtype=torch.float64)
    value = F.info_nce(z_a, z_a, hardest=1, temperature=0.5, symmetric=False)
    assert_allclose(value, math.log1p(3 * math.exp(-2)), rtol=1e-12)


def test_a_weighted_direction():
    """ConVIRT's λ: 1 and 0 are the two directions."""
    z_a, z_b = torch.randn(2, 5, 4, dtype=torch.float64)
    forth = F.info_nce(z_a, z_b, symmetric=False)
    back = F.info_nce(z_b, z_a, symmetric=False)
    for share in (0.0, 0.25, 1.0):
        value = F.info_nce(z_a, z_b, direction_weight=share)
        assert_allclose(value, share * forth + (1 - share) * back, rtol=1e-12)


def test_a_margin_is_a_smaller_positive():
    z_a, z_b = torch.randn(2, 5, 4, dtype=torch.float64)
    unit = torch.nn.functional.normalize
    s = unit(z_a, dim=1) @ unit(z_b, dim=1).T / 0.1 - 0.6 * torch.eye(5)
    target = torch.arange(5)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(s, target) + cross_entropy(s.T, target)) / 2
    assert_allclose(F.info_nce(z_a, z_b, temperature=0.1, margin=0.6), expected)


def test_extra_rows_that_are_not_there():
    """No rows, or none that is valid, whatever is in them: nothing changes."""
    z_a, z_b = torch.randn(2, 5, 4, dtype=torch.float64)
    none = torch.empty(0, 4, dtype=torch.float64)
    absent = torch.full((3, 4), torch.nan, dtype=torch.float64)
    plain = with_grad(F.info_nce, z_a, z_b)
    for extra in (
        xl.ExtraNegatives(none, none),
        xl.ExtraNegatives(absent, absent, valid=torch.zeros(3, dtype=torch.bool)),
    ):
        some = with_grad(lambda a, b, e=extra: F.info_nce(a, b, extra=e), z_a, z_b)
        for x, y in zip(some, plain, strict=True):
            assert_allclose(x, y, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.2, "learned"])
def test_extra_negatives_under_transforms(temperature):
    """Compiled, mapped, differentiated twice, and with a learned temperature."""
    z_a, z_b = torch.randn(2, 5, 4, dtype=torch.float64).requires_grad_()
    z_a, z_b = z_a.detach().requires_grad_(), z_b.detach().requires_grad_()
    rows = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def loss(a, b, e, tau):
        return F.info_nce(
            a,
            b,
            temperature=tau if temperature == "learned" else temperature,
            extra=xl.ExtraNegatives(e, 2 * e + 1),
            guide=(b, a),
            guide_margin=-0.1,
            hardest=4,
        )

    inputs = (z_a, z_b, rows, tau)
    tau.requires_grad_(temperature == "learned")
    assert torch.autograd.gradcheck(loss, inputs)
    value = loss(*inputs)
    needed = [z for z in inputs if z.requires_grad]
    grads = torch.autograd.grad(value, needed)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(*inputs)
    assert_allclose(compiled.detach(), value.detach(), rtol=1e-12)
    results = zip(torch.autograd.grad(compiled, needed), grads, strict=True)
    for x, y in results:
        assert_allclose(x, y, rtol=1e-9, atol=1e-12)
    batch = tuple(torch.stack((z.detach(), 0.9 * z.detach())) for z in inputs)
    mapped = torch.func.vmap(loss)(*batch)
    alone = torch.stack([loss(*(z[i] for z in batch)) for i in range(2)])
    assert_allclose(mapped, alone.detach(), rtol=1e-12)


def test_modules_hand_everything_on():
    z_a, z_b = torch.randn(2, GROUPS, N, D, dtype=torch.float64)
    extra = _tensors(_extra("shared", told=False)[0])
    guide = tuple(map(torch.tensor, _guide()))
    options = {
        "direction_weight": 0.3,
        "margin": 0.2,
        "guide_margin": -0.05,
        "hardest": 3,
    }
    module = xl.InfoNCELoss(**options)
    value = module(z_a, z_b, guide=guide, extra=extra)
    assert value == F.info_nce(z_a, z_b, guide=guide, extra=extra, **options)
    for name, option in options.items():
        assert f"{name}={option}" in repr(module)


Z = torch.ones(4, 3)
EXTRA = xl.ExtraNegatives
BAD = [
    ({"symmetric": False, "direction_weight": 0.4}, "direction_weight must be 0.5 unl"),
    (
        {"direction_weight": 1.5},
        "direction_weight must be a finite number >= 0 and",
    ),
    ({"margin": math.nan}, "margin must be a finite number"),
    ({"hardest": 0}, "hardest must be >= 1, got 0"),
    ({"guide": Z}, "guide must be a pair of embeddings"),
    ({"guide": (Z, Z[:3])}, r"guide\[1\] must be of shape \(4,\) \+ \(G,\)"),
    ({"guide": (Z, Z[:, :2])}, r"guide\[1\] must be .* the same G in both"),
    ({"guide": (Z, Z.long())}, r"guide\[1\] must be a floating-point tensor"),
    ({"guide_margin": "0"}, "guide_margin must be a number"),
    ({"extra": (Z, Z)}, "extra must be ExtraNegatives, got tuple"),
    ({"extra": EXTRA()}, "extra must have rows of a or of b"),
    ({"extra": EXTRA(b=Z[:, :2])}, r"extra.b must be of shape \(K, D\)"),
    ({"extra": EXTRA(b=Z.expand(5, 4, 3))}, r"extra.b must be of shape \(K, D\)"),
    ({"extra": EXTRA(Z, Z[:2])}, "extra.a and extra.b must be of the same shape"),
    ({"extra": EXTRA(Z, ids=torch.arange(3))}, r"extra.ids must be of shape \(4,\)"),
    ({"extra": EXTRA(Z, ids=torch.arange(4))}, "ids must be given where extra has ids"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[text for _, text in BAD])
def test_errors(options, message):
    with pytest.raises((TypeError, ValueError), match=f"^info_nce: {message}"):
        F.info_nce(Z, Z, **options)


def test_combinations_are_all_there():
    """Every pair of options does something: no one is dropped beside another."""
    inputs = SPEC.draw(
        Case({}, (N, N), (D, D), (GROUPS,), exclude=True, ids=True), seed=5
    )
    tensors = to_torch(inputs, grad=False)
    extra = _tensors(_extra("group", told=False)[0])
    some = {
        "direction_weight": 0.8,
        "margin": 0.3,
        "hardest": 2,
        "guide": tuple(map(torch.tensor, _guide())),
        "extra": extra,
        "negatives": "all",
    }
    for one, other in product(some, some):
        if one != other:
            both = {one: some[one], other: some[other]}
            alone = F.info_nce(**tensors, **{one: some[one]})
            assert F.info_nce(**tensors, **both) != alone, (one, other)
