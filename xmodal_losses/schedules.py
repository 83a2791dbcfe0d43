"""Weights that change in the course of training: functions of the step.

Any callable of a number will do for the weight of a :class:`~xmodal_losses.Term`; a
module that is pickled wants one that is, too, which these are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from xmodal_losses._core import checks

__all__ = ["CosineSchedule", "LinearSchedule", "Schedule"]

Schedule: TypeAlias = Callable[[float], float]


@dataclass(frozen=True)
class LinearSchedule:
    """A weight that goes from one value to another in a straight line.

    Args:
        start: Weight ≥ 0 up to the step ``begin``.
        end: Weight ≥ 0 from the step ``begin + length`` on.
        length: How many steps (or epochs, if that is what is counted) it takes, > 0.
        begin: Step ≥ 0 at which it starts to change.

    Examples:
        >>> import xmodal_losses as xl
        >>> warm_up = xl.LinearSchedule(0.0, 0.02, length=1000)
        >>> warm_up(0), warm_up(500), warm_up(5000)
        (0.0, 0.01, 0.02)
    """

    start: float
    end: float
    length: float = field(kw_only=True)
    begin: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, step: float) -> float:
        """Return the weight at a step."""
        return _between(self.start, self.end, _progress(self, step))


@dataclass(frozen=True)
class CosineSchedule:
    """A weight that goes from one value to another along half a cosine.

    It leaves the one and reaches the other slowly.

    Args:
        start: As in :class:`~xmodal_losses.LinearSchedule`.
        end: As in :class:`~xmodal_losses.LinearSchedule`.
        length: As in :class:`~xmodal_losses.LinearSchedule`.
        begin: As in :class:`~xmodal_losses.LinearSchedule`.

    Examples:
        >>> import xmodal_losses as xl
        >>> fade = xl.CosineSchedule(1.0, 0.0, length=100, begin=50)
        >>> fade(50), round(fade(100), 12), fade(150)
        (1.0, 0.5, 0.0)
    """

    start: float
    end: float
    length: float = field(kw_only=True)
    begin: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, step: float) -> float:
        """Return the weight at a step."""
        progress = (1 - math.cos(math.pi * _progress(self, step))) / 2
        return _between(self.start, self.end, progress)


def _check(schedule: LinearSchedule | CosineSchedule) -> None:
    caller = type(schedule).__name__
    checks.number(caller, "start", schedule.start, at_least=0.0)
    checks.number(caller, "end", schedule.end, at_least=0.0)
    checks.number(caller, "length", schedule.length, above=0.0)
    checks.number(caller, "begin", schedule.begin, at_least=0.0)


def _progress(schedule: LinearSchedule | CosineSchedule, step: float) -> float:
    return min(max((step - schedule.begin) / schedule.length, 0.0), 1.0)


def _between(start: float, end: float, progress: float) -> float:
    # Both ends are met exactly: a weight of 0 is one that costs nothing.
    return (1 - progress) * start + progress * end
