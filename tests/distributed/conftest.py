"""Pools of ranks, started when first asked for."""

import pytest

from distributed.ranks import Pool


@pytest.fixture(scope="session")
def pools():
    """Return the pool of so many ranks."""
    started = {}

    def of(size):
        if size in started and started[size].broken:
            started.pop(size).close()
        if size not in started:
            started[size] = Pool(size)
        return started[size]

    yield of
    for pool in started.values():
        pool.close()
