"""Checks of copies, of exported programs and of CUDA graphs."""

import copy
import io
import pickle
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.compatibility.checks import (
    EXACT,
    OTHERS,
    SINGLE,
    MismatchError,
    NotRunError,
    Setting,
    batch,
    compare,
    evaluate,
    leaves_of,
    made,
)
from benchmarks.compatibility.subjects import Subject

__all__ = ["cuda_graph", "exported", "exported_dynamic", "pickled"]

LEAST, MOST = 4, 256  # rows of a program that is exported for any number of them
VALUE_ONLY = (
    "the value; the program holds the forward pass alone, which works in place, and "
    "torch raises where its gradient is asked for"
)


def pickled(subject: Subject, setting: Setting) -> None:
    """Compare copies, by pickle, `torch.save`, `deepcopy` and `state_dict`."""
    module, tensors = made(subject, setting), batch(subject, setting)
    leaves = leaves_of(subject)
    expected = evaluate(module, tensors, leaves)
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    fresh = made(subject, setting, seed=1)
    fresh.load_state_dict(module.state_dict())
    for twin in (
        pickle.loads(pickle.dumps(module)),
        torch.load(saved, weights_only=False),
        copy.deepcopy(module),
        fresh,
    ):
        for a, b in zip(evaluate(twin, tensors, leaves), expected, strict=True):
            if not torch.equal(a, b):
                raise MismatchError("a copy returns other numbers")


def exported(subject: Subject, setting: Setting) -> str | None:
    """Export to a program, save and load it, and compare."""
    tensors = batch(subject, setting)
    program = torch.export.export(made(subject, setting), tuple(tensors))
    return _as_program(subject, program, [tensors])


def exported_dynamic(subject: Subject, setting: Setting) -> str | None:
    """Export to a program for any number of rows, and compare at several."""
    tensors = batch(subject, setting)
    rows = torch.export.Dim("rows", min=LEAST, max=MOST)
    shapes = (tuple({0: rows} for _ in tensors),)
    program = torch.export.export(
        made(subject, setting), tuple(tensors), dynamic_shapes=shapes
    )
    others = [batch(subject, setting, rows=n, seed=n) for n in (LEAST + 4, *OTHERS)]
    return _as_program(subject, program, [tensors, *others])


def _as_program(subject: Subject, program: Any, batches: list) -> str | None:
    """Save and load a program; compare its values, and its gradients if it has any."""
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    module: nn.Module = torch.export.load(saved).module()
    leaves, note = leaves_of(subject), None
    for tensors in batches:
        plain = made(subject, Setting(tensors[0].device.type))
        expected = evaluate(plain, tensors, leaves)
        with torch.no_grad():
            compare([module(*tensors)], expected[:1], EXACT)
        try:
            compare(evaluate(module, tensors, leaves), expected, EXACT)
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            note = VALUE_ONLY
    return note


def cuda_graph(subject: Subject, setting: Setting) -> None:
    """Capture both passes, replay them on other rows, and compare."""
    if setting.device != "cuda":
        raise NotRunError("no GPU")
    leaves = leaves_of(subject)
    module = subject.build().to("cuda")
    static = batch(subject, setting, torch.float32)
    for leaf in static[:leaves]:
        leaf.requires_grad_()
    of = [*static[:leaves], *module.parameters()]

    def both() -> list[Tensor]:
        value = module(*static)
        return [value, *torch.autograd.grad(value, of)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # libraries are loaded, memory has been asked for
            both()
        torch.cuda.synchronize()
        # What waits for the device is found here, not by a broken capture.
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            both()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = both()
    for seed in (1, 2):
        tensors = batch(subject, setting, torch.float32, seed=seed)
        with torch.no_grad():
            for mine, other in zip(static, tensors, strict=True):
                mine.copy_(other)
        graph.replay()
        torch.cuda.synchronize()
        wide = [t.double() if t.is_floating_point() else t for t in tensors]
        expected = evaluate(copy.deepcopy(module).double(), wide, leaves)
        compare(found, expected, SINGLE)
