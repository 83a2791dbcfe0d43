"""Independent references: numpy and scipy, float64, written from the papers.

Nothing here imports torch or the package under test. Every function takes the
embeddings as ``(…, N, D)`` arrays and the options under the names the package uses.
Loops are welcome: a reference is read, not timed. All but DCCA avoid conjugates and
absolute values, so that :func:`gradient.complex_step` differentiates them to the last
digit.
"""
