"""One HTML page to look at a run: click a place, see where features find it.

Everything is inside the file, images and features included, and similarities are
computed in the browser: it opens from a disk, without a server or a network. The page
itself is in `page/`; here is what it shows.
"""

import base64
import copy
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .baselines import at_corners
from .compact import compress, similarities, survival
from .data import Pair
from .evaluate import Describe, Protocol, Queries, prepare_pair
from .figures import LABELS
from .model import Describer
from .registration_figure import checkerboard, register_case
from .report import ROWS
from .seen import Colours, View, aligned_case, pixels, profile
from .training import Training
from .warps import random_cases

__all__ = ["build", "page", "weights", "write_report"]

PAGE = Path(__file__).parent / "page"
PAIRS, REGISTERED, LEARNED = 12, 3, 6  # shown, registered, that colours are fitted to
DIMS, PITCH = 48, 8.0  # directions of the features, and pixels between their cells
FEATURES = 7_000_000  # bytes of features in all; a third more in the page
QUERIES = 24  # of each pair that the page offers
REACH = 64.0  # pixels
POINTS = 200  # of a training curve


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Choose at most `count`, evenly."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[round(place)] for place in places]


def jpeg(image: np.ndarray) -> str:
    """Return an image, uint8, as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def packed(array: Tensor | np.ndarray) -> dict[str, Any]:
    """Return an array of bytes, with its shape."""
    array = np.ascontiguousarray(array)
    data = base64.b64encode(array.tobytes()).decode()
    return {"shape": list(array.shape), "data": data}


def images(pair: Pair, queries: Queries) -> dict[str, Any]:
    """Return what the page shows of a pair itself."""
    rgb, ir = pixels(queries.rgb), pixels(queries.ir)
    return {
        "name": pair.name,
        "size": [rgb.shape[1], rgb.shape[0]],
        "offset": [rgb.shape[1] - ir.shape[1], rgb.shape[0] - ir.shape[0]],
        "rgb": jpeg(rgb),
        "ir": jpeg(ir),
        "queries": spread(queries.points_rgb.tolist(), QUERIES),
        "states": {},
    }


def look(
    describe: Describe,
    items: Sequence[dict[str, Any]],
    asked: Sequence[Queries],
    train: Sequence[Pair],
) -> dict[str, Any]:
    """Add to every item what one state of the network sees; return what all tell."""
    colours = Colours.fit(
        [View.of(describe, pair.rgb[None], pair.ir[None]) for pair in train]
    )
    full, kept, truths = [], [], []
    for item, queries in zip(items, asked, strict=True):
        view = View.of(describe, queries.rgb, queries.ir)
        rgb, ir = view.thinned(PITCH)
        compact = compress(rgb, ir, DIMS)
        full.append(View(view.rgb, ir).scores(queries.points_rgb))
        kept.append(similarities(compact, (queries.points_rgb - rgb.first) / rgb.pitch))
        truths.append((queries.points_ir - ir.first) / ir.pitch)
        found = view.matches(aligned_case(item["name"], queries))
        item["view"] = {
            "rgb": packed(compact.rgb),
            "ir": packed(compact.ir),
            "scale": compact.scale.tolist(),
            "colours_rgb": packed(colours.paint(rgb)),
            "colours_ir": packed(colours.paint(ir)),
            "matches": found.round(1).tolist(),
        }
    peaks = torch.cat([one.flatten(1).amax(1) for one in kept])
    every = torch.cat([one.flatten() for one in kept])
    return {
        "pitch": ir.pitch,
        "first": ir.first,
        "full_dims": ir.maps.shape[1],
        "range": [float(np.quantile(every, 0.01)), float(np.quantile(peaks, 0.9))],
        "profile": profile(full, truths, ir.pitch, REACH),
        "kept": survival(full, kept),
    }


def registered(
    states: Mapping[str, Describe], pairs: Sequence[Pair]
) -> list[dict[str, Any]]:
    """Register pairs that were taken apart."""
    out = []
    for case in random_cases(pairs):
        results = {}
        for state, describe in states.items():
            result = register_case(case, at_corners(describe))
            image = jpeg(checkerboard(case, result.homography))
            results[state] = {"image": image, "label": result.label}
        out.append({"name": case.name, "states": results})
    return out


@torch.no_grad()
def build(
    states: Mapping[str, Describe],
    pairs: Sequence[Pair],
    train: Sequence[Pair],
    protocol: Protocol,
) -> dict[str, Any]:
    """Return what the page shows of features.

    Args:
        states: The network in several states, by name.
        pairs: The test pairs, in the order in which they were evaluated.
        train: The pairs that colours are fitted to.
        protocol: How places are chosen.
    """
    numbered = enumerate(pairs)
    asked = [(pair, prepare_pair(pair, protocol, index)) for index, pair in numbered]
    asked = [(pair, queries) for pair, queries in asked if len(queries.points_rgb)]
    # Of finer maps, fewer pairs rather than less of their features.
    rgb, ir = asked[0][1][:2]
    views = [View.of(describe, rgb, ir) for describe in states.values()]
    cells = sum(view.thinned(PITCH).cells for view in views)
    asked = spread(asked, min(PAIRS, max(FEATURES // (DIMS * cells), 1)))
    items = [images(pair, queries) for pair, queries in asked]
    told = {}
    for state, describe in states.items():
        told[state] = look(describe, items, [one for _, one in asked], train)
        for item in items:
            item["states"][state] = item.pop("view")
    low, high = np.array([one["range"] for one in told.values()]).T
    return {
        "states": told,
        "dims": min(DIMS, *(one["full_dims"] for one in told.values())),
        "lobe": protocol.lobe,
        "range": [np.floor(10 * low.min()) / 10, np.ceil(10 * high.max()) / 10],
        "pairs": items,
        "pairs_available": len(pairs),
        "registered": registered(states, spread(pairs, REGISTERED)),
    }


def in_blocks(values: Sequence[float]) -> dict[str, list[float]]:
    """Average a curve over neighbouring steps, so that about `POINTS` are left."""
    size = -(-len(values) // POINTS)
    blocks = [values[i : i + size] for i in range(0, len(values), size)]
    middle = [i * size + (len(block) + 1) / 2 for i, block in enumerate(blocks)]
    return {"x": middle, "y": [float(np.mean(block)) for block in blocks]}


def curves(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what happened in training."""
    every = metrics["settings"]["validate_every"]
    shares = {
        name: {"x": [every * i for i in range(len(values))], "y": values}
        for name, values in metrics["gradient_shares"].items()
    }
    return {
        "labels": LABELS,
        "terms": {name: in_blocks(one) for name, one in metrics["terms"].items()},
        "shares": shares,
        "validation": metrics["validation"],
        "selected_step": metrics["selected_step"],
    }


def rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table's rows, shares in per cent."""
    out = []
    for name, _, label, share in ROWS:
        if name in result:
            numbers = {
                key: None if value is None else (100**share * np.array(value)).tolist()
                for key, value in result[name].items()
            }
            out.append({"label": label, "digits": 1 if share else 2, **numbers})
    return out


def facts(metrics: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return what was run on what, in words."""
    split = metrics["split"].items()
    groups = {
        "Data": {
            "data set": metrics["data"],
            **{part.replace("_", " "): f"{len(names)} pairs" for part, names in split},
            "evaluated": f"{len(metrics['test_pairs'])} test pairs",
        },
        "Run": {
            "selected step": metrics["selected_step"],
            "seconds of training": round(metrics["training_seconds"]),
            **metrics["environment"],
        },
        "Protocol": metrics["protocol"],
        "Settings": metrics["settings"],
    }
    return {
        name: {key: str(value) for key, value in group.items()}
        for name, group in groups.items()
    }


def page(content: Mapping[str, Any]) -> str:
    """Put style, scripts and content into the template."""
    html = (PAGE / "page.html").read_text("utf-8")
    for name in ("page.css", "compute.js", "draw.js", "page.js"):
        html = html.replace(f"/* {name} */", (PAGE / name).read_text("utf-8"), 1)
    text = json.dumps(content, allow_nan=False, ensure_ascii=False)
    # Nothing in a name may end the script it is in.
    return html.replace("/* content */", text.replace("<", "\\u003c"), 1)


def weights(training: Training) -> dict[str, Tensor]:
    """Return the averaged weights as they are now, to come back to."""
    state = training.averaged.module.state_dict()
    return {name: value.cpu().clone() for name, value in state.items()}


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    training: Training,
    train: Sequence[Pair],
    test: Sequence[Pair],
) -> None:
    """Write the page of a run whose selected weights are in place.

    Args:
        path: File to write.
        metrics: What metrics.json holds.
        training: The run; its progress holds its `initial` weights.
        train: The pairs it learned from, in full resolution.
        test: The test pairs, in the order in which they were evaluated.
    """
    untrained = copy.deepcopy(training.averaged.module)
    untrained.load_state_dict(training.progress["initial"])
    before = Describer(untrained, training.settings.downscale, training.device)
    states = {"before": before, "after": training.describe}
    viridis = mpl.colormaps["viridis"](np.arange(256))[:, :3]
    content = build(states, test, spread(train, LEARNED), training.protocol) | {
        "colours": packed((255 * viridis).round().astype(np.uint8)),
        "table": rows(metrics["result"]),
        "training": curves(metrics),
        "facts": facts(metrics),
    }
    path.write_text(page(content), encoding="utf-8")
