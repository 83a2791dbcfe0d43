"""The tables and figures that show `results/`: those of the study, and the headline.

python examples/roadscene_page.py
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from roadscene.figures import BLUE, GREY, STYLE, new_figure

__all__ = ["FIGURES", "PAGES", "SECTIONS", "rewritten"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "examples" / "results"
PAGES = (
    ROOT / "README.md",
    ROOT / "examples" / "README.md",
    ROOT / "docs" / "index.md",
    ROOT / "docs" / "roadscene_study.md",
)
MARKED = re.compile(
    r"(<!-- (\w+): made by examples/roadscene_page.py -->\n).*?(<!-- end -->)", re.S
)
FIGURES = ROOT / "docs" / "_static"

Row = Mapping[str, Any]


def number(value: float | None, digits: int = 1, unit: float = 1) -> str:
    """Format a number, or a dash."""
    return "–" if value is None else f"{unit * value:.{digits}f}"


def within(row: Row, metric: str, unit: float = 1, digits: int = 1) -> str:
    """Format a mean and its interval."""
    interval = row.get(f"{metric}_interval")
    shown = number(row.get(metric), digits, unit)
    if interval is None:
        return shown
    low, high = (f"{unit * x:.{digits}f}" for x in interval)
    return f"{shown} [{low}, {high}]"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Format a table; the first column is text."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


HEADLINE = "SIFT, folded and upright", "HOG"


def headline(result: dict[str, Any]) -> str:
    """Table of what is learned, beside the best of what is not."""
    found, cases = result["localisation"], result["registration"]
    benchmark = cases.get("ReDFeat's homographies", {})
    learned = [name for name in found if name.endswith((", untrained", ", trained"))]
    head = ["", "seeds", "top-1, %", "8 px, %", "error, px", "SRR@10, %", "RE, px"]
    body = []
    for name in (*HEADLINE, *learned):
        place = found.get(name, {})
        first, search = (
            benchmark.get(f"{name} · {way}", {})
            for way in ("RANSAC", "RANSAC, then search")
        )
        searched = number(search.get("mean_success"), 2)
        body.append(
            [
                name,
                str(place.get("seeds", 1)),
                within(place, "top1", 100),
                number(place.get("within"), unit=100),
                number(place.get("error")),
                number(first.get("srr"), unit=100),
                f"{number(first.get('mean_success'), 2)} / {searched}",
            ]
        )
    return table(head, body)


def claim(result: dict[str, Any]) -> str:
    """Sentence on what is learned, beside the best of what is not."""
    name = "ReDFeat's homographies"
    learned, beside = "SwinFuse, full, trained", HEADLINE[1]
    found, cases = result["localisation"], result["registration"].get(name, {})
    share, other = (within(found.get(x, {}), "top1", 100) for x in (learned, beside))
    some, fewer = (
        number(cases.get(f"{x} · RANSAC", {}).get("srr"), unit=100)
        for x in (learned, beside)
    )
    return (
        f"In {result['cases'].get(name)} registered pairs of RGB and infrared images "
        f"that it has not seen, a network trained with three of these losses finds "
        f"{share} % of places in the whole other image, and HOG {other} %; of "
        f"homographies it recovers {some} %, and HOG {fewer} %."
    )


def places(result: dict[str, Any]) -> str:
    """Table of finding places."""
    head = ["", "seeds", "top-1, %", "top-5, %", "8 px, %", "error, px"]
    head += ["peak height", "peak/sidelobe", "width, px"]
    body = [
        [
            name,
            str(row["seeds"]),
            within(row, "top1", 100),
            number(row["top5"], unit=100),
            within(row, "within", 100),
            number(row["error"]),
            number(row.get("height"), 2),
            number(row["sidelobe_ratio"], 2),
            number(row.get("width")),
        ]
        for name, row in result["localisation"].items()
    ]
    some = next(iter(result["localisation"].values()))
    chance = (
        number(some["chance_top1"], unit=100),
        number(some["chance_within"], unit=100),
    )
    body.insert(0, ["*chance*", "", chance[0], "", chance[1], *[""] * 4])
    return table(head, body)


def registered(result: dict[str, Any]) -> str:
    """Tables of registration, one per set of pairs, by RANSAC at 10 px."""
    parts = []
    for name, rows in result["registration"].items():
        landmarks = any(row["srr"] is not None for row in rows.values())
        head = ["", "AUC@3", "AUC@5", "AUC@10", "NCM", "precision@3, %"]
        if landmarks:
            head[1:1] = ["SRR@10, %", "RE, px", "RE > 100, %"]
        body = []
        for method, row in rows.items():
            label, estimator = method.rsplit(" · ", 1)
            if estimator != "RANSAC":
                continue
            cells = [
                *(number(row[f"auc_{x}"], unit=100) for x in (3, 5, 10)),
                number(row["ncm"], 0),
                number(row["precision_3"], unit=100),
            ]
            if landmarks:
                cells = [
                    within(row, "srr", 100),
                    number(row["mean_success"], 2),
                    number(row["collapsed"], unit=100),
                    *cells,
                ]
            body.append([label, *cells])
        parts += [
            f"**{name[0].upper()}{name[1:]}**, {result['cases'][name]} pairs.",
            "",
        ]
        if result["floor"][name]:
            mean, share = (result["floor"][name][key] for key in ("mean", "srr"))
            parts[-2] += (
                f" With the true homographies, RE is {mean:.2f} px in the mean, and "
                f"below 10 px for {100 * share:.1f} %."
            )
        parts += [table(head, body), ""]
    return "\n".join(parts).strip()


def ways(result: dict[str, Any]) -> str:
    """Table of what registers ReDFeat's pairs by every way to estimate."""
    rows = result["registration"].get("ReDFeat's homographies", {})
    parts = [tuple(method.rsplit(" · ", 1)) for method in rows]
    labels, names = (list(dict.fromkeys(some)) for some in zip(*parts, strict=True))
    body = [
        [label, *(way_cell(rows.get(f"{label} · {way}")) for way in names)]
        for label in labels
    ]
    return table(["", *names], body)


def way_cell(row: Row | None) -> str:
    """Format what one way to estimate makes of one method's matches."""
    if row is None:
        return "–"
    share, taken = (number(row[key], unit=100) for key in ("srr", "inliers"))
    return f"{share} ({number(row['mean_success'], 2)}; {taken})"


def ablation(result: dict[str, Any]) -> str:
    """Table of the study: every variant against the full recipe."""
    head = ["", "seeds", "top-1, %", "change, points", "8 px, %", "error, px", "shares"]
    body = []
    for name, row in result["variants"].items():
        change = within(row, "top1_change", 100) if "top1_change" in row else "–"
        shares = ", ".join(
            f"{term} {100 * share:.3g} %"
            for term, share in row["gradient_shares"].items()
        )
        body.append(
            [
                name,
                str(row["count"]),
                within(row, "top1", 100),
                change,
                number(row["within"], unit=100),
                number(row["error"]),
                shares,
            ]
        )
    said = f"Flags of every run: `{' '.join(result['flags'])}`."
    return f"{table(head, body)}\n\n{said}"


# What stands between the markers of that name, and the file it is made of.
SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "headline": ("comparison", headline),
    "claim": ("comparison", claim),
    "places": ("comparison", places),
    "registration": ("comparison", registered),
    "ways": ("comparison", ways),
    "ablation": ("study", ablation),
    "swinfuse": ("study_swinfuse", ablation),
}


def read(name: str) -> dict[str, Any] | None:
    """Return a result, if it is there."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def rewritten(text: str) -> str:
    """Return a page with the tables that belong into it."""

    def filled(found: re.Match[str]) -> str:
        start, name, end = found.groups()
        source, shown = SECTIONS[name]
        result = read(source)
        content = "Not measured yet." if result is None else shown(result)
        return f"{start}\n{content}\n\n{end}"

    return MARKED.sub(filled, text)


def figures() -> None:
    """Draw top-1 of every method and every variant, with intervals."""
    for source, key in (
        ("comparison", "localisation"),
        ("study", "variants"),
        ("study_swinfuse", "variants"),
    ):
        result = read(source)
        if result is None:
            continue
        rows = list(result[key].items())[::-1]
        with mpl.rc_context(STYLE):
            figure = new_figure(7.0, 0.6 + 0.24 * len(rows))
            axis = figure.subplots()
            for at, (name, row) in enumerate(rows):
                low, high = row["top1_interval"]
                learned = key == "variants" or name.endswith(", trained")
                colour = BLUE if learned else GREY
                axis.plot([100 * low, 100 * high], [at, at], color=colour, linewidth=2)
                axis.plot(100 * row["top1"], at, "o", color=colour, ms=4)
            axis.set_yticks(range(len(rows)), [name for name, _ in rows])
            axis.set(xlabel="found within 8 px in the whole image (%)", xlim=(0, None))
            figure.savefig(FIGURES / f"roadscene_{source}.png")


def main() -> None:
    """Write the tables and the figures."""
    for page in PAGES:
        page.write_text(rewritten(page.read_text("utf-8")), "utf-8")
        print(f"written: {page.relative_to(ROOT)}")
    figures()


if __name__ == "__main__":
    main()
