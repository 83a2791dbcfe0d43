"""How far value and gradient of every loss are from the truth, here and elsewhere.

    python -m benchmarks.certificate [--draws 1000000] [--losses mmd] [--dtypes float32]
    python -m benchmarks.certificate --loss mmd --dtype float32 --regime tiny --draw 123

Many seeded inputs of each loss, dtype and regime (`regimes`, `layouts`) are handed to
the library, to the plain formula and to every peer that computes the same
(`subjects`), one call each, and compared (`measure`) with references in extended
precision (`truths_of_*`, `extended`), which are given the numbers that the dtype
holds. A cell that is finished is kept, and taken up by a later run of the same
sources; results are published when all are (`run`).
"""

from benchmarks.certificate.run import main
from benchmarks.certificate.subjects import SUBJECTS

__all__ = ["SUBJECTS", "main"]
