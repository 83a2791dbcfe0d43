"""A range of rows in parts."""

from collections.abc import Iterator


def parts(n: int, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size`` that make up the first n."""
    # The compiler takes what a range is made of for constants. Where all fits into one
    # part none is made, and what was compiled serves other numbers of rows.
    if n <= 1 or n <= size:
        if n > 0:
            yield slice(0, n)
        return
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
