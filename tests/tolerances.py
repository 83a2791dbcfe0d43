"""Every tolerance of the proof, each with its reason."""

import torch

#: Relative error of a float64 value against a float64 reference: a few hundred
#: roundings in sums of different order.
VALUE = {"rtol": 1e-10, "atol": 1e-12}

#: Float64 gradient against complex steps, which are exact to rounding.
GRADIENT = {"rtol": 1e-9, "atol": 1e-11}

#: Float64 gradient against five-point differences of an SVD-based reference:
#: rounding of 1e-15 over the step of 2e-3, and truncation of the step to the 4th.
GRADIENT_DIFFERENCES = {"rtol": 1e-6, "atol": 1e-7}

#: Two float64 routes of the package to one quantity (tiles and dense, batched and
#: looped): the same sums in another order.
SAME = {"rtol": 1e-12, "atol": 1e-12}

#: Unit roundoff of a dtype times a growth allowance: what a single correctly rounded
#: result, or one stored in that dtype, may lose before anything is summed.
ROUNDING = {
    torch.float64: 2**-53 * 64,
    torch.float32: 2**-24 * 64,
    torch.float16: 2**-11 * 4,
    torch.bfloat16: 2**-8 * 4,
}

#: The package may be at most this many times less accurate than the plain expression.
NAIVE_FACTOR = 2.0

#: Float32 against float64 on stressed inputs, relative to the scale of the answer.
STRESS = 2e-4
