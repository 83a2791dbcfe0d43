"""What terms, objectives, schedules and calls refuse, and how they say so."""

import re

import pytest
import torch
from torch import nn

import xmodal_losses as xl
import xmodal_losses.functional as F
from test_objective import N, NoWeight, labelled, views
from xmodal_losses import CrossModalObjective, Term


def _says(kind, text):
    return pytest.raises(kind, match=f"^{re.escape(text)}")


def test_bad_terms():
    loss = xl.InfoNCELoss()
    with _says(TypeError, "Term: loss must be a torch.nn.Module, got function."):
        Term(F.info_nce)
    with _says(TypeError, "Term: loss must be a module of two batches, forward(z_a, z"):
        Term(nn.ReLU())
    with _says(ValueError, "Term: loss must return a scalar, got CORALLoss(reduction="):
        Term(xl.CORALLoss(reduction="none"))
    with _says(ValueError, "Term: input must be one of 'projection', 'embedding', got"):
        Term(loss, input="unit")
    for weight in (-0.1, float("nan"), float("inf")):
        with _says(ValueError, "Term: weight must be a finite number >= 0, got"):
            Term(loss, weight=weight)
    for weight in ("0.1", None, True, torch.tensor(0.1)):
        with _says(TypeError, "Term: weight must be a number >= 0, got"):
            Term(loss, weight=weight)
    with pytest.raises(TypeError):
        Term(loss, 0.1)  # what it is has to be said


def test_bad_objectives():
    term = Term(xl.InfoNCELoss())
    says = "CrossModalObjective: "
    with _says(ValueError, f"{says}terms must be one or more, got none."):
        CrossModalObjective({})
    for bad in ([("a", term)], term, xl.InfoNCELoss()):
        with _says(TypeError, f"{says}terms must be a mapping of names to terms, got"):
            CrossModalObjective(bad)
    with _says(TypeError, f"{says}terms['a'] must be a Term, got InfoNCELoss. Write"):
        CrossModalObjective({"a": xl.InfoNCELoss()})
    for name in ("a.b", "", "a b", 3):
        with _says(ValueError, f"{says}names of terms must be identifiers, got"):
            CrossModalObjective({name: term})
    for name in ("items", "training", "forward"):
        with _says(ValueError, f"{says}names of terms must be free in torch.nn.Module"):
            CrossModalObjective({name: term})
    for options in ({"gather": True}, {"grad_reduce": "sum"}):
        with _says(ValueError, f"{says}gather and grad_reduce must be left out beside"):
            CrossModalObjective({"a": term}, **options)
    with _says(TypeError, f"{says}lean must be True or False, got 1."):
        CrossModalObjective(lean=1)
    with _says(TypeError, f"{says}gather must be True, False or a process group, got"):
        CrossModalObjective(gather="all")
    with _says(ValueError, "InfoNCELoss: gather must be False without a process group"):
        CrossModalObjective(gather=True)(*views())


def test_bad_schedules():
    z_a, z_b = views()
    says = "CrossModalObjective: "
    for kind in (xl.LinearSchedule, xl.CosineSchedule):
        name = kind.__name__
        with _says(ValueError, f"{name}: start must be a finite number >= 0, got -1"):
            kind(-1, 0.5, length=10)
        with _says(ValueError, f"{name}: end must be a finite number >= 0, got -0.5"):
            kind(1, -0.5, length=10)
        with _says(ValueError, f"{name}: length must be a finite number > 0, got 0"):
            kind(1, 0.5, length=0)
        with _says(ValueError, f"{name}: begin must be a finite number >= 0, got -1"):
            kind(1, 0.5, length=10, begin=-1)

    def objective(weight):
        return CrossModalObjective({"a": Term(xl.InfoNCELoss(), weight=weight)})

    with _says(ValueError, f"{says}step must be given where a weight is a function of"):
        objective(lambda step: 1.0)(z_a, z_b)
    for step in (-1, float("nan")):
        with _says(ValueError, f"{says}step must be a finite number >= 0, got"):
            objective(lambda step: 1.0)(z_a, z_b, step=step)
    with _says(
        ValueError, f"{says}the weight of 'a' at step 3 must be a finite number"
    ):
        objective(lambda step: -step)(z_a, z_b, step=3)
    with _says(
        TypeError, f"{says}the weight of 'a' at step 3 must be a number >= 0, g"
    ):
        objective(lambda step: None)(z_a, z_b, step=3)


def test_bad_calls():
    z_a, z_b = views()
    says, labels = "CrossModalObjective: ", torch.arange(N)
    seed = CrossModalObjective()
    with _says(TypeError, f"{says}labels must be an argument of a term, got none that"):
        seed(z_a, z_b, labels=labels)
    with _says(TypeError, f"{says}weights must be an argument of a term, got none"):
        seed(z_a, z_b, weights=torch.ones(N))
    with _says(
        TypeError, f"{says}labels_a must be given for the term 'classes', got N"
    ):
        CrossModalObjective(labelled())(z_a, z_b)
    plain = CrossModalObjective(
        {"a": Term(xl.InfoNCELoss()), "b": Term(NoWeight()), "c": Term(NoWeight())}
    )
    with _says(
        TypeError, f"{says}weight must be an argument of every term, got none o"
    ):
        plain(z_a, z_b, weight=torch.ones(N))
    for reduction in (lambda a, b: a - b, lambda a, b: 3.0):
        loss = NoWeight()
        loss.forward = reduction
        objective = CrossModalObjective({"a": Term(loss)})
        with _says(
            ValueError, f"{says}the loss of 'a' must return a scalar tensor, got"
        ):
            objective(z_a, z_b)
    on_unit = CrossModalObjective({"a": Term(xl.CORALLoss(), input="embedding")})
    with _says(ValueError, f"{says}weight must be of shape (12,), one weight per row"):
        on_unit(z_a, z_b, weight=torch.ones(3))
    with _says(TypeError, f"{says}z_a must be a floating-point tensor"):
        on_unit(labels[:, None], z_b)
    with _says(ValueError, "coral: z_a and z_b must have the same number of columns"):
        on_unit(z_a, z_b[:, :3])
