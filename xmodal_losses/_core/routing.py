"""Which of the arguments of several losses each of them takes."""

import inspect
from collections.abc import Collection, Iterable

from torch import nn

__all__ = ["refuse_unrouted", "routes", "taken"]


def taken(caller: str, loss: nn.Module) -> dict[str, bool]:
    """Return what ``forward`` takes after two batches, and whether it has to have it.

    Whatever else ``**options`` would swallow is not known by name, and not taken.
    """
    parameters = list(inspect.signature(loss.forward).parameters.values())
    kinds = [parameter.kind for parameter in parameters]
    anything = inspect.Parameter.VAR_POSITIONAL in kinds
    first = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    if not anything and (len(kinds) < 2 or not set(kinds[:2]) <= set(first)):
        raise TypeError(
            f"{caller}: loss must be a module of two batches, forward(z_a, z_b, …), "
            f"got {type(loss).__name__}{inspect.signature(loss.forward)}."
        )
    rest = parameters if anything else parameters[2:]
    named = (first[1], inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default is p.empty for p in rest if p.kind in named}


def routes(
    caller: str, term: str, takes: dict[str, bool], names: Collection[str]
) -> dict[str, str]:
    """Return which argument of those given by name is which parameter of a loss.

    What is given for pairs of rows is so for both of their sides.
    """
    out = {}
    for parameter, required in takes.items():
        both = parameter.removesuffix("_a").removesuffix("_b")
        if parameter in names:
            out[parameter] = parameter
        elif both in names:
            out[parameter] = both
        elif required:
            raise TypeError(
                f"{caller}: {parameter} must be given for the term {term!r}, got None."
            )
    return out


def refuse_unrouted(
    caller: str, names: Iterable[str], routed: dict[str, dict[str, str]]
) -> None:
    """Raise where an argument reaches no term; a weight has to reach all of them."""
    reached = {term: set(sources.values()) for term, sources in routed.items()}
    for name in names:
        missed = [term for term, sources in reached.items() if name not in sources]
        if len(missed) == len(reached):
            raise TypeError(
                f"{caller}: {name} must be an argument of a term, got none that takes "
                f"it among {', '.join(reached)}."
            )
        if name == "weight" and missed:
            raise TypeError(
                f"{caller}: weight must be an argument of every term, got none of "
                f"{', '.join(map(repr, missed))}. To a loss without it, rows of weight "
                "0 would be like all others."
            )
