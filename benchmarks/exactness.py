"""Who has on W processes the gradient of one, and who has another.

    python -m benchmarks.exactness [--ranks 3]

Each rank has a part of a batch, two linear encoders, and a logit scale if the loss has
one. What DDP makes of the gradients, their mean over ranks, is compared with the
gradient of the same loss on one process: the ratio of their lengths along the right
direction, and the angle between them. 1 and 0° is exact.
"""

import multiprocessing
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks import common
from benchmarks.cases import views
from benchmarks.page import TITLES, number, table
from benchmarks.peers.across_ranks import COLUMNS, ROWS, SCALE, WAYS, Loss, Way

__all__ = ["compare", "rows", "shown"]

NOISE = 1e-5  # far above rounding, far below what is wrong


def gradient(loss: Loss, x_a: Tensor, x_b: Tensor) -> list[Tensor]:
    """Return the gradients of both encoders, and of the logit scale."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(2, COLUMNS, COLUMNS, generator=generator, dtype=x_a.dtype)
    encoders = [theta.clone().requires_grad_() for theta in start]
    scale = torch.tensor(SCALE, dtype=x_a.dtype, requires_grad=True)
    value = loss(x_a @ encoders[0], x_b @ encoders[1], scale)
    leaves = [*encoders, scale]
    return list(
        torch.autograd.grad(value, leaves, materialize_grads=True, allow_unused=True)
    )


def batch() -> tuple[Tensor, Tensor]:
    """Return the rows of all ranks."""
    return views(ROWS, COLUMNS, dtype=torch.float64)


def split(size: int, even: bool) -> list[int]:
    """Return how many rows each rank has."""
    if even:
        return [ROWS * (r + 1) // size - ROWS * r // size for r in range(size)]
    return [ROWS - 3 * (size - 1), *[3] * (size - 1)]


def _serve(pipe: Any, rank: int, size: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=20),
    )
    for index, one in enumerate(WAYS):
        for even in (True, False) if one.uneven else (True,):
            counts = split(size, even)
            mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
            x_a, x_b = (x[mine] for x in batch())
            answer: Any
            try:
                grads = gradient(one.build(True), x_a, x_b)
                for grad in grads:
                    dist.all_reduce(grad)
                answer = [(grad / size).tolist() for grad in grads]
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            if rank == 0:
                pipe.send((index, even, answer))
    pipe.close()
    dist.destroy_process_group()


def compare(theirs: list[Tensor], truth: list[Tensor]) -> dict[str, float]:
    """Return the ratio and the angle of the encoders' gradients, the scale's ratio."""
    t = torch.cat([grad.flatten() for grad in truth[:2]])
    g = torch.cat([grad.flatten() for grad in theirs[:2]])
    u, v = g / g.norm(), t / t.norm()
    return {
        "ratio": (g @ t / (t @ t)).item(),
        "degrees": torch.rad2deg(
            2 * torch.atan2((u - v).norm(), (u + v).norm())
        ).item(),
        "error": ((g - t).norm() / t.norm()).item(),
        "scale_ratio": (theirs[2] / truth[2]).item() if truth[2] != 0 else None,
    }


def rows(size: int) -> list[dict[str, Any]]:
    """Run every way on so many ranks."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = context.Pipe(duplex=False)
        processes = [
            context.Process(
                target=_serve, args=(theirs, rank, size, str(Path(folder) / "store"))
            )
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        theirs.close()
        out = []
        try:
            while True:
                index, even, found = ours.recv()
                out.append(_row(WAYS[index], even, found))
        except EOFError:
            pass
        for process in processes:
            process.join()
    return out


def _row(one: Way, even: bool, found: Any) -> dict[str, Any]:
    row = {"loss": one.loss, "way": one.name, "package": one.package, "even": even}
    if isinstance(found, str):
        return row | {"failed": found.splitlines()[0]}
    truth = gradient(one.build(False), *batch())
    return row | compare(
        [torch.tensor(grad, dtype=torch.float64) for grad in found], truth
    )


def shown(results: list[dict[str, Any]]) -> str:
    """Return the table of the page."""

    def near(ratio: float) -> bool:
        return abs(ratio - 1) < NOISE

    body = []
    for row in sorted(results, key=lambda row: list(TITLES).index(row["loss"])):
        parts = "even" if row["even"] else "uneven"
        if "failed" in row:
            verdict = ["–", "–", "–", row["failed"]]
        else:
            ratio, scale = row["ratio"], row["scale_ratio"]
            exact = row["error"] < NOISE and (scale is None or near(scale))
            verdict = [
                "1" if near(ratio) else number(ratio),
                f"{0 if row['degrees'] < NOISE else row['degrees']:.2g}°",
                "–" if scale is None else "1" if near(scale) else number(scale),
                "exact" if exact else "**another gradient**",
            ]
        body.append([TITLES[row["loss"]], row["way"], parts, *verdict])
    head = ["loss", "whose", "parts", "ratio", "angle", "ratio of the scale", ""]
    return table(head, body)


def main() -> None:
    """Compare, print, save."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=3)
    args = parser.parse_args()
    results = rows(args.ranks)
    print(shown(results))
    common.save("exactness", args, results, partial=args.ranks != 3)


if __name__ == "__main__":
    main()
