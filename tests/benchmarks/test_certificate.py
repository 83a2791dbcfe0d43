"""The truths are true, what is wrong is seen, runs are taken up, the page is a run."""

import importlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from benchmarks import certificate_page, common
from benchmarks.certificate import figures, read, run
from benchmarks.certificate.extended import (
    EXTENDED,
    _svd,
    evaluate,
    nuclear_norm,
    orthonormal,
)
from benchmarks.certificate.layouts import LAYOUTS
from benchmarks.certificate.measure import measured, truth_of
from benchmarks.certificate.regimes import DTYPES, REGIMES, batches, kinds
from benchmarks.certificate.subjects import SUBJECTS, entrants
from benchmarks.contestants import LIBRARY, PLAIN
from test_api import LOSSES

each_loss = pytest.mark.parametrize("loss", SUBJECTS)
OPTIONS = {"soft_info_nce": {"label_smoothing": 0.1}, "dgcca": {"num_components": 2}}
HELD = ("mmd", "similarity_preservation")  # something is a constant to the gradient


def ordinary(loss, dtype="float64", draws=range(2)):
    (batch,) = batches(loss, SUBJECTS[loss].layout, "ordinary", dtype, draws)
    return batch


def test_every_loss_is_in_it():
    assert set(SUBJECTS) == set(LOSSES)


# --------------------------------------------------------------------------------------
# Truths
# --------------------------------------------------------------------------------------


@each_loss
def test_truth_is_the_reference(loss):
    """Two that share no code agree to the digits of the one in float64."""
    batch = ordinary(loss)
    found = truth_of(SUBJECTS[loss].truth, batch)
    assert found.value.dtype == EXTENDED
    reference = getattr(importlib.import_module(f"reference.{loss}"), loss)
    for k in range(2):
        inputs = {n: z[k] for n, z in (batch.leaves | batch.fixed).items()}
        if "view_0" in inputs:
            inputs = {"views": list(inputs.values())}
        wanted = reference(**inputs, **batch.labels, **OPTIONS.get(loss, {}))
        # That of debiased contrast has a difference inside of its exponentials.
        rtol = 1e-6 if loss == "debiased" else 1e-12
        assert_allclose(float(found.value[k]), wanted, rtol=rtol)


@each_loss
def test_gradient_of_the_truth(loss):
    """That of the library in float64, and differences of the truth's own values."""
    batch, subject = ordinary(loss), SUBJECTS[loss]
    found = truth_of(subject.truth, batch)
    for k in range(2):
        inputs = batch.draw(k, torch.float64)
        leaves = [inputs[name] for name in batch.leaves]
        grads = torch.autograd.grad(subject.ours(**inputs), leaves)
        wanted = np.concatenate([g.numpy().ravel() for g in grads])
        error = np.linalg.norm((found.gradient[k] - wanted).astype(float))
        assert error < 1e-11 * np.linalg.norm(wanted)
    if loss in HELD:
        return
    rng, step = np.random.default_rng(0), EXTENDED(1e-6)
    way = {n: rng.standard_normal(z.shape) for n, z in batch.leaves.items()}
    ends = [
        evaluate(
            subject.truth,
            {
                n: z.astype(EXTENDED) + s * step * way[n]
                for n, z in batch.leaves.items()
            },
            batch.fixed | batch.labels,
        ).value
        for s in (1, -1)
    ]
    along = np.concatenate([d.reshape(2, -1) for d in way.values()], 1)
    slope = (found.gradient * along).sum(1)
    assert_allclose(
        ((ends[0] - ends[1]) / (2 * step)).astype(float), slope.astype(float), rtol=1e-7
    )


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_decompositions(shape):
    m = np.random.default_rng(0).standard_normal((2, *shape)).astype(EXTENDED)
    u, s, v = _svd(m)
    eps = float(np.finfo(EXTENDED).eps)
    assert np.abs((u * s[:, None]) @ v.swapaxes(1, 2) - m).max() < 64 * eps
    wanted = np.linalg.svd(m.astype(float), compute_uv=False)
    assert_allclose(-np.sort(-s, -1).astype(float)[:, : min(shape)], wanted, rtol=1e-13)
    q = orthonormal(m[..., :3])
    assert np.abs(q.swapaxes(1, 2) @ q - np.eye(3)).max() < 64 * eps
    # A matrix of rank one: what is nothing but rounding has no direction.
    flat = evaluate(lambda m: nuclear_norm(m), {"m": m[:, :, :1] * m[:, :1, :]}, {})
    assert_allclose((flat.gradient**2).sum(1).astype(float), 1.0)


# --------------------------------------------------------------------------------------
# What is drawn
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("regime", REGIMES)
def test_draws_are_told_by_their_number(layout, regime):
    for dtype in DTYPES:
        some = list(batches("any", layout, regime, dtype, range(6)))
        assert [batch.kind for batch in some] == kinds(layout, regime)[: len(some)]
        assert sorted(n for batch in some for n in batch.numbers) == list(range(6))
        for batch in some:
            (again,) = batches("any", layout, regime, dtype, batch.numbers[-1:])
            for name, z in (batch.leaves | batch.fixed).items():
                assert np.isfinite(z).all()
                assert (torch.tensor(z).to(DTYPES[dtype]).double().numpy() == z).all()
                assert ((again.leaves | again.fixed)[name][0] == z[-1]).all()


# --------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------


def wrong(change):
    ours = entrants(SUBJECTS["coral"])[0]
    return replace(ours, name="wrong", call=lambda **z: change(ours.call(**z)))


@pytest.mark.parametrize(
    ("change", "of_value", "of_gradient"),
    [
        (lambda x: x * 1.001, 1e-3, 1e-3),
        (lambda x: x / 2 + x.detach() / 2, 0.0, 0.5),
        (lambda x: x.detach() * 2 - x, 0.0, 2.0),
    ],
)
def test_what_is_wrong_is_seen(change, of_value, of_gradient):
    found, _ = measured("coral", "ordinary", "float64", range(3), [wrong(change)])
    assert_allclose(found["wrong"].value, of_value, atol=1e-12)
    assert_allclose(found["wrong"].gradient, of_gradient, rtol=1e-9)


def test_what_is_not_finite_or_raises_is_counted():
    def raises(value):
        if value < 1e-300:
            raise ValueError("too small\nfor this")
        return value * torch.nan

    found, _ = measured("coral", "degenerate", "float64", range(6), [wrong(raises)])
    errors = found["wrong"]
    # Of six draws two are identical, and two have all rows equal.
    assert errors.raised == ["ValueError: too small"] * 4
    found = run.summary(errors.value, errors.numbers)
    assert found == {"worst": None, "median": None, "draw": None, "nonfinite": 2}
    assert run.summary([2.0, float("nan"), 1.0, 4.0], [0, 1, 2, 3]) == {
        "worst": 4.0,
        "median": 2.0,
        "draw": 3,
        "nonfinite": 1,
    }


def test_at_a_truth_of_0_errors_are_relative_to_ordinary_inputs():
    entrant = wrong(lambda x: x + 1e-3)
    found, _ = measured("coral", "degenerate", "float64", [1], [entrant])  # identical
    batch = ordinary("coral", draws=range(32))
    usual = np.median(np.abs(truth_of(entrant.truth, batch).value.astype(float)))
    assert_allclose(found["wrong"].value, 1e-3 / usual)
    assert found["wrong"].gradient == [0.0]


def test_gradients_in_float16_are_scaled():
    """CORAL of tiny rows has gradients of 2⁻⁴⁰, of huge ones of 2³⁰."""
    ours = entrants(SUBJECTS["coral"])[:1]
    for regime in ("tiny", "huge"):
        found, _ = measured("coral", regime, "float16", range(2), ours)
        assert max(found[LIBRARY].gradient) < 2.0**-10


def test_the_truth_says_how_well_it_is_known():
    ours = entrants(SUBJECTS["info_nce"])[:1]
    for regime in ("ordinary", "large mean"):
        found, own = measured("info_nce", regime, "float64", range(2), ours)
        assert max(own["truth"].gradient) < 1e-2 * max(found[LIBRARY].gradient)
    # Half a last digit of rows at 2²⁶ spreads: 2²⁶ · 2⁻⁵³ of a spread.
    assert 1e-9 < max(own["inputs"].gradient) < 1e-7


@pytest.mark.peers
@pytest.mark.parametrize("loss", ["info_nce", "nt_xent", "mmd", "coral", "dcca"])
def test_what_is_installed_is_compared_with_the_truth_of_its_convention(loss):
    for entrant in run.tried(loss):
        assert not entrant.absent.startswith("another formula"), entrant.name


# --------------------------------------------------------------------------------------
# Runs
# --------------------------------------------------------------------------------------

CELLS = ["--threads", "1", "--losses", "coral", "--dtypes", "float32"]


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Keep cells elsewhere, and count those that are measured."""
    cell, calls = run.cell, []

    def counting(*where):
        calls.append(where[:3])
        return cell(*where)

    monkeypatch.setattr(run, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(run, "cell", counting)
    return calls


def test_a_run_is_taken_up_where_it_stopped(counted, tmp_path, capsys):
    path = tmp_path / "some.json"
    options = [*CELLS, "--quick", "--json", str(path), "--regimes"]
    run.main([*options, "tiny"])
    run.main([*options, "tiny", "huge"])
    assert counted == [("coral", "float32", r) for r in ("tiny", "huge")]
    found = read.Certificate(path)
    assert list(found.cells) == counted
    row = found.row("coral", "float32", "tiny")
    assert row["gradient"]["nonfinite"] == row["raised"] == 0
    assert 0 < row["gradient"]["median"] <= row["gradient"]["worst"] < 1e-5

    run.main([*CELLS, "--quick", "--regimes", "tiny"])
    assert "not published: --quick" in capsys.readouterr().out
    run.main([*CELLS, "--draws", "800", "--regimes", "tiny"])
    assert "not published: not all cells" in capsys.readouterr().out
    assert counted[2:] == [("coral", "float32", "tiny")]  # one draw, and not two


def test_the_worst_draw_is_printed_again(counted, tmp_path, capsys):
    path = tmp_path / "some.json"
    where = ["--regimes", "large mean"]
    run.main([*CELLS, *where, "--draws", "4000", "--json", str(path)])
    worst = read.Certificate(path).row("coral", "float32", "large mean", PLAIN)
    capsys.readouterr()
    run.main([*CELLS, *where, "--draw", str(worst["gradient"]["draw"])])
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith(PLAIN)]
    assert line.split()[-1] == f"{worst['gradient']['worst']:.1e}"


# --------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    (found,) = read.certificates(common.RESULTS)
    return found


def test_the_page_is_what_was_found(published):
    """`python -m benchmarks.certificate_page` has been run after the last run."""
    text = certificate_page.PAGE.read_text(encoding="utf-8")
    assert certificate_page.rewritten(text, published) == text


def test_the_figures_are_those_of_the_run(published):
    for name in figures.names():
        drawn = (certificate_page.FIGURES / name).read_text(encoding="utf-8")
        assert f"results {published.digest}" in drawn, name


def test_everything_was_run(published):
    assert published.metadata["draws"] >= 100_000
    assert set(published.losses) == set(SUBJECTS)
    assert len(published.cells) == len(SUBJECTS) * len(DTYPES) * len(REGIMES)


def test_a_failure_of_ours_and_a_better_peer_would_be_shown(published, tmp_path):
    content = json.loads(published.path.read_text(encoding="utf-8"))
    for cell in content["results"]:
        if (cell["loss"], cell["dtype"], cell["regime"]) == ("mmd", "float32", "tiny"):
            for row in cell["rows"]:
                if row["entrant"] == LIBRARY:
                    row["gradient"] |= {"nonfinite": 3, "worst": 0.125}
    path = shutil.copy(published.path, tmp_path)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)
    spoilt = read.Certificate(tmp_path / published.path.name)
    assert "not finite in 1 cells" in " ".join(certificate_page.said(spoilt))
    line = "| [MMD](losses/mmd.md) | float32, tiny | gradient | 1e-01 |"
    assert line in "".join(certificate_page.not_to_trust(spoilt))
    assert "**3 not finite**" in "".join(certificate_page.ours(spoilt))
    some = "".join(certificate_page.better(spoilt))
    assert "| [MMD](losses/mmd.md) | plain | float32, tiny | gradient |" in some
    assert [figures._text(x) for x in (3e-7, 0.9, 0.0, None)] == ["−7", "0", "−∞", "–"]
    figures.draw(spoilt, tmp_path)
    assert {path.name for path in tmp_path.glob("*.svg")} == set(figures.names())
