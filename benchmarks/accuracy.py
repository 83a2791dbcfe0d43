"""Error of value and gradient by dtype, of the library and of the plain formulas.

    python -m benchmarks.accuracy [--quick] [--device cuda] [--losses coral mmd]

The truth is the library in float64 on the very numbers the low precision got, which
`make test` compares with independent references. Regimes: an easy batch; one far from
the origin; for InfoNCE also pairs that are already right.
"""

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.cases import Case, views

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def regimes(rows: int, columns: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return named inputs in float64."""
    z_a, z_b = views(rows, columns)
    basis = torch.eye(min(rows, columns), columns, dtype=torch.float64)
    return {
        "easy": (z_a, z_b),
        "mean 100": (z_a + 100, z_b + 100),
        "already right": (basis, basis.clone()),
    }


def relative_error(got: Tensor, truth: Tensor) -> float:
    """Return ‖got − truth‖ / ‖truth‖."""
    scale = truth.norm()
    return ((got.double() - truth).norm() / scale).item() if scale > 0 else float("nan")


def evaluate(function, z: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return value and gradient, the latter as one vector."""
    value = function(*z)
    grads = torch.autograd.grad(value, z)
    return value.detach(), torch.cat([grad.flatten() for grad in grads])


def measure(case: Case, rows: int, columns: int, device: str) -> list[dict]:
    """Return one row per regime, dtype and spelling."""
    out = []
    for regime, inputs in regimes(rows, columns).items():
        if regime == "already right" and case.name != "info_nce":
            continue
        for dtype in DTYPES:
            low = [z.to(device, dtype).requires_grad_() for z in inputs]
            high = [z.detach().double().requires_grad_() for z in low]
            truth = evaluate(case.library, high)
            row = {"loss": case.name, "regime": regime, "dtype": str(dtype)[6:]}
            for name in ("library", "plain"):
                try:
                    got = evaluate(getattr(case, name), low)
                except RuntimeError as error:  # no kernel for this dtype
                    row[name] = {"error": str(error).splitlines()[0]}
                    continue
                value, grad = map(relative_error, got, truth)
                row[name] = {"value": value, "gradient": grad}
            out.append(row)
    return out


def cell(entry: dict) -> str:
    """Return value and gradient error for the table."""
    if "error" in entry:
        return f"{'not implemented':>22}"
    return f"{entry['value']:>11.1e}{entry['gradient']:>11.1e}"


def main() -> None:
    """Measure, print, save."""
    args = common.parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(args.threads)
    rows, columns = (32, 8) if args.quick else (512, 64)
    print(f"{'':<40}{'library':^22}{'plain':^22}")
    print(f"{'loss':<14}{'regime':<16}{'dtype':<10}", end="")
    print(f"{'value':>11}{'gradient':>11}" * 2)
    results = []
    for case in common.chosen(args):
        for row in measure(case, rows, columns, args.device):
            results.append({**row, "rows": rows, "columns": columns})
            print(f"{row['loss']:<14}{row['regime']:<16}{row['dtype']:<10}", end="")
            print(cell(row["library"]) + cell(row["plain"]), flush=True)
    print("relative errors against float64")
    common.save("accuracy", args, results, partial=bool(args.losses))


if __name__ == "__main__":
    main()
