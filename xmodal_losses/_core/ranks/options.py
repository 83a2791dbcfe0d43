"""The options by which a loss is told of its group."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch.distributed as dist

from xmodal_losses._core import checks
from xmodal_losses._core.ranks.exchange import Group, Ranks

GradReduce: TypeAlias = Literal["mean", "sum"]
GRAD_REDUCES = ("mean", "sum")


def joined(
    caller: str,
    group: Group | None,
    grad_reduce: object = "mean",
    exchange: object = None,
    exchanges: Sequence[str] = (),
) -> Ranks | None:
    """Check the options, and return the ranks of a group; None for no group."""
    check(caller, grad_reduce, exchange, exchanges)
    if group is None:
        return None
    known = dist.is_available() and dist.is_initialized()
    if not known or not isinstance(group, dist.ProcessGroup):
        remedy = "" if known else " Call torch.distributed.init_process_group first."
        raise ValueError(
            f"{caller}: group must be a process group that this process is in, got "
            f"{type(group).__name__}.{remedy}"
        )
    return Ranks(group, grad_reduce == "mean")


def of_module(caller: str, gather: bool | Group) -> Group | None:
    """Return the group that a module's option ``gather`` names."""
    if not isinstance(gather, bool):
        return gather
    if not gather:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            f"{caller}: gather must be False without a process group, got True. Call "
            "torch.distributed.init_process_group first."
        )
    return dist.group.WORLD


def check_module(
    caller: str,
    gather: object,
    grad_reduce: object,
    exchange: object = None,
    exchanges: Sequence[str] = (),
) -> None:
    """Check the options of a module."""
    check(caller, grad_reduce, exchange, exchanges)
    group = dist.is_available() and isinstance(gather, dist.ProcessGroup)
    if not isinstance(gather, bool) and not group:
        raise TypeError(
            f"{caller}: gather must be True, False or a process group, got "
            f"{type(gather).__name__}."
        )


def check(
    caller: str, grad_reduce: object, exchange: object, exchanges: Sequence[str]
) -> None:
    """Check the options of modules and functions."""
    checks.option(caller, "grad_reduce", grad_reduce, GRAD_REDUCES)
    checks.option(caller, "exchange", exchange, (None, *exchanges))
