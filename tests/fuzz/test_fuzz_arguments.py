"""Whatever an argument is: it is understood, or refused at once in the one grammar.

No other exception, no warning (they are errors here), no argument of another type that
passes for one, and no input that is written to.
"""

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hostile import VALUES, VALUES_OF_INDICES, Target, refused, targets, tensors

EVERY = tuple(targets())
WITH_ARGUMENTS = [target for target in EVERY if target.arguments]
each_target = pytest.mark.parametrize("target", EVERY, ids=str)


def show(value):
    """Return a value, so that it can be found in the pool."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.layout} {value.device}"
    return repr(value)[:60]


def attempt(target: Target, changed: dict) -> None:
    what = {name: show(value) for name, value in changed.items()}
    given = list(tensors([*target.given.values(), *changed.values()]))
    before = [one._version for one in given]
    if any((target.name, name) in VALUES_OF_INDICES for name in changed):
        errors: tuple = (IndexError,)
    else:
        errors = ()
    try:
        target(**changed)
    except errors:
        return
    except Exception as error:
        wrong = refused(error, changed)
        if wrong:
            raise AssertionError(f"{target}, {what}: {wrong}") from error
    else:
        for name, value in changed.items():
            kind = target.kind(name)
            assert kind is None or kind(value), f"{target} takes {what} as {name}"
    assert before == [one._version for one in given], f"{target} writes to {what}"


@each_target
def test_what_is_given_is_fine(target):
    target()


@pytest.mark.slow
@each_target
def test_each_argument_for_each_value(target):
    for name in target.arguments:
        for value in VALUES:
            attempt(target, {name: value})


values = st.one_of(
    st.sampled_from(VALUES),
    st.integers(-3, 12),  # of what has to be held in memory, no more
    st.integers(2**63),
    st.floats(),
    st.text(max_size=8),
    hnp.arrays(
        st.sampled_from(["f4", "f8", "f2", "i8", "?", "c8", "u1"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    ).map(torch.from_numpy),
)


@st.composite
def changes(draw):
    """Draw something to call, and some of its arguments."""
    target = draw(st.sampled_from(WITH_ARGUMENTS))
    names = st.lists(
        st.sampled_from(target.arguments), min_size=1, max_size=4, unique=True
    )
    return target, {name: draw(values) for name in draw(names)}


@settings(max_examples=20 * settings.default.max_examples)
@given(changes())
def test_some_arguments_at_once(case):
    target, changed = case
    note(f"{target}: { {name: show(value) for name, value in changed.items()} }")
    attempt(target, changed)
