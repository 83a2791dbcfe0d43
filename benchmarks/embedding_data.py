"""What the figures of `docs/embedding_diagnostics.md` show, of made-up rows.

Every function returns a figure's numbers, drawn from seeds. They are computed with the
package, within seconds, so that a test can see that the figures are still true.
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import xmodal_losses.functional as F
from benchmarks.common import ROOT
from xmodal_losses import diagnostics

__all__ = ["DATA", "FIGURES", "FOLDER", "computed", "digest", "stored"]

FOLDER = ROOT / "docs" / "_static" / "diagnostics"
DATA: Path = FOLDER / "data.json"

Numbers = dict[str, Any]


def rank() -> Numbers:
    """Directions of one strength, with a hundredth of noise in all."""
    n, d, directions = 512, 64, [1, 2, 4, 8, 16, 32, 64]
    out: Numbers = {"directions": directions, "rank_me": [], "effective_rank": []}
    out["rank_me_offset"] = []
    for seed, count in enumerate(directions):
        z = torch.zeros(n, d, dtype=torch.float64)
        z[:, :count] = normal(n, count, seed=seed)
        z += 0.01 * normal(n, d, seed=100 + seed)
        out["rank_me"].append(diagnostics.rank_me(z))
        out["effective_rank"].append(diagnostics.effective_rank(z))
        out["rank_me_offset"].append(diagnostics.rank_me(z + 1))
    return out


def hypersphere() -> Numbers:
    """Partners ever less alike, and rows ever more about one direction."""
    n, d = 1000, 32
    noise, mean = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0], [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]
    z, other = normal(n, d, seed=0), normal(n, d, seed=1)
    along = torch.zeros(d, dtype=torch.float64)
    along[0] = math.sqrt(d)
    return {
        "noise": noise,
        "alignment": [diagnostics.alignment(z, z + s * other) for s in noise],
        "mean": mean,
        "uniformity": [diagnostics.uniformity(z + m * along) for m in mean],
        "spread_evenly": diagnostics.uniformity(normal(4000, d, seed=2)),
    }


def modality_gap() -> Numbers:
    """How often a shift is found in 20 pairs that correlate by 0.9."""
    n, trials, correlation = 20, 100, 0.9
    shifts = [0.0, 0.1, 0.2, 0.3, 0.4, 0.6]
    out: Numbers = {"shift": shifts, "paired": [], "unpaired": []}
    z_a = normal(trials, n, 2, seed=0)
    z_b = correlation * z_a
    z_b += math.sqrt(1 - correlation**2) * normal(trials, n, 2, seed=1)
    for shift in shifts:
        for name, paired in (("paired", True), ("unpaired", False)):
            found = 0
            for trial in range(trials):
                b = z_b[trial].clone()
                b[:, 0] += shift
                p_value = diagnostics.modality_gap(
                    z_a[trial],
                    b,
                    paired=paired,
                    normalize=False,
                    num_permutations=99,
                    generator=torch.Generator().manual_seed(trial),
                ).p_value
                found += int(p_value <= 0.05)
            out[name].append(found / trials)
    return out


def dimensions() -> Numbers:
    """Columns of three kinds: as they should be, small, and dead."""
    deviations = [1.5] * 24 + [0.4] * 16 + [0.002] * 8
    scale = torch.tensor(deviations, dtype=torch.float64)
    z = scale * normal(256, len(deviations), seed=0)
    return {
        "deviations": z.std(0).sort(descending=True).values,
        "threshold": 0.01 * z.var(0).mean().sqrt(),
        "dead": diagnostics.dead_dimensions(z).total,
        "hinge": diagnostics.hinge_counts(z).total,
    }


def canonical_spectrum() -> Numbers:
    """Six shared directions among 32, in many rows and in few."""
    d, shared = 32, torch.tensor([0.95, 0.9, 0.8, 0.7, 0.6, 0.5], dtype=torch.float64)
    out: Numbers = {}
    for n in (1000, 120):
        z_a, z_b = normal(n, d, seed=0), normal(n, d, seed=1)
        z_b[:, :6] = shared * z_a[:, :6] + (1 - shared**2).sqrt() * z_b[:, :6]
        found = diagnostics.canonical_spectrum(z_a, z_b)
        shuffled = diagnostics.canonical_spectrum(z_a, z_b.roll(1, 0))
        out[str(n)] = {
            "paired": found.correlations,
            "shuffled": shuffled.correlations,
            "edge": found.chance_largest,
        }
    return out


def welch_floor() -> Numbers:
    """The redundancy of random columns of 64 rows, and the least that any have."""
    n, columns = 64, [16, 32, 63, 96, 128, 192, 256, 384, 512]
    out: Numbers = {"rows": n, "columns": columns, "redundancy": [], "floor": []}
    for d in columns:
        z = normal(n, d, seed=d)
        out["redundancy"].append(F.barlow_twins_terms(z, z).redundancy / d)
        out["floor"].append(diagnostics.welch_floor(n, d) / d)
    return out


def linear_cka() -> Numbers:
    """Batches of 64 columns, with a half in common and with nothing."""
    d, rows = 64, [8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    out: Numbers = {"rows": rows}
    for kind in ("unrelated", "related"):
        for unbiased in (False, True):
            line = []
            for n in rows:
                z_a, z_b = normal(16, n, d, seed=n), normal(16, n, d, seed=n + 1)
                if kind == "related":
                    z_b[..., : d // 2] = z_a[..., : d // 2]
                line.append(diagnostics.linear_cka(z_a, z_b, unbiased=unbiased).mean())
            out[f"{kind}, {'unbiased' if unbiased else 'biased'}"] = line
    return out


FIGURES: dict[str, Callable[[], Numbers]] = {
    "rank": rank,
    "hypersphere": hypersphere,
    "modality_gap": modality_gap,
    "dimensions": dimensions,
    "canonical_spectrum": canonical_spectrum,
    "welch_floor": welch_floor,
    "linear_cka": linear_cka,
}


def normal(*shape: int, seed: int) -> Tensor:
    """Return normal numbers of a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def computed(name: str) -> Numbers:
    """Return the numbers of a figure, to five digits."""
    numbers: Numbers = plain(FIGURES[name]())
    return numbers


def plain(value: Any) -> Any:
    """Return numbers as JSON has them."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def stored() -> dict[str, Numbers]:
    """Return the committed numbers of all figures."""
    found: dict[str, Numbers] = json.loads(DATA.read_text(encoding="utf-8"))
    return found


def digest(numbers: Numbers) -> str:
    """Return what the figure of these numbers carries."""
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:16]
