"""The tables and figures of `docs/certificate.md`, from the committed run.

    python -m benchmarks.certificate_page

What is between a line `<!-- certificate: NAME -->` and `<!-- end -->` is written here.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks.certificate import figures
from benchmarks.certificate.layouts import LAYOUTS
from benchmarks.certificate.read import (
    NAMES,
    WHAT,
    Certificate,
    Comparison,
    Row,
    careful,
    certificates,
    fails,
)
from benchmarks.certificate.regimes import DTYPES, REGIMES
from benchmarks.certificate.subjects import SUBJECTS
from benchmarks.common import RESULTS, ROOT
from benchmarks.contestants import LIBRARY, PLAIN
from benchmarks.page import by, details, table
from benchmarks.plot import FIGURES

__all__ = ["PAGE", "rewritten"]

PAGE = ROOT / "docs" / "certificate.md"
FACTOR = 2.0  # less is luck of the draws


def rewritten(text: str, certificate: Certificate) -> str:
    """Return the page with what belongs into it."""
    for name, part in PARTS.items():
        pattern = rf"(<!-- certificate: {name} -->\n).*?(<!-- end -->)"
        body = "\n\n".join(part(certificate))
        found = re.findall(pattern, text, flags=re.S)
        assert len(found) == 1, name
        text = re.sub(
            pattern, lambda m, body=body: f"{m[1]}\n{body}\n\n{m[2]}", text, flags=re.S
        )
    return text


# ------------------------------------------------------------------ what it says


def said(certificate: Certificate) -> Iterable[str]:
    """Return three sentences, and where the numbers come from."""
    about = certificate.metadata
    ours = {where: certificate.row(*where) for where in certificate.cells}
    bad = sum(any(fails(row, what) for what in WHAT) for row in ours.values())
    good = sum(holds(row, dtype) for (_, dtype, _), row in ours.items())
    plain, peers = (certificate.comparisons(some) for some in (False, True))
    broken = [sum(fails(c.theirs, "gradient") > 0 for c in x) for x in (plain, peers)]
    right = [sum(holds(c.theirs, c.dtype) for c in x) for x in (plain, peers)]
    lower = sum(c.better("gradient") for c in (*plain, *peers))
    much = sum(c.better("gradient", FACTOR) for c in (*plain, *peers))
    others = len(plain) + len(peers)
    finite = f"not finite in {bad} cells" if bad else "finite in all"
    yield (
        f"{about['draws']:,} inputs were drawn, for {len(ours)} cells: a loss, a dtype "
        f"and a regime. Values and gradients of this library were {finite}, gradients "
        f"of plain formulas failed in {broken[0]} of the {len(plain)} cells for which "
        f"they have code, those of peers in {broken[1]} of {len(peers)}; the worst "
        f"gradient of a cell has [half its digits](#where-not-to-trust-this-library) "
        f"right in {good} of {len(ours)} here, in {right[0]} of {len(plain)} by the "
        f"plain formula and in {right[1]} of {len(peers)} by peers. In {lower} of "
        f"{others} comparisons the worst gradient of the other is better than ours, in "
        f"{much} by more than a factor of {FACTOR:.0f}: [these are "
        f"listed](#where-another-is-better)."
    )
    torch, python, day = about["torch"], about["python"], about["timestamp_utc"][:10]
    yield (
        f"{about['device']}, torch {torch}, Python {python}; revision "
        f"{about['git_commit']}, {day}; file `{certificate.path.name}`."
    )


def holds(row: Row, dtype: str) -> bool:
    """Return whether half of the digits of all gradients are right."""
    worst = row["gradient"]["worst"]
    return not fails(row, "gradient") and worst is not None and worst <= careful(dtype)


# ------------------------------------------------------------------ what is drawn


def drawn(certificate: Certificate) -> Iterable[str]:
    """Return what the regimes are, in all layouts, and in each."""
    common = [[name, text] for name, text in REGIMES.items()]
    yield table(["regime", "what is drawn"], common)
    body = []
    for layout, losses in by(list(SUBJECTS.values()), lambda s: s.layout).items():
        form = LAYOUTS[layout]
        names = ", ".join(
            f"[{NAMES[one.name]}](losses/{one.name}.md)" for one in losses
        )
        body.append([names, form.said, ", ".join(form.kinds)])
    yield table(["losses", "saturated", "degenerate"], body)


# ------------------------------------------------------------------ maps and tables


def maps(certificate: Certificate) -> Iterable[str]:
    """Return the figures."""
    for dtype in ("float32", *(d for d in DTYPES if d != "float32")):
        yield (
            f"![Worst gradient errors in {dtype}](_static/benchmarks/"
            f"{figures.MAP.format(dtype)})"
        )


def against(certificate: Certificate) -> Iterable[str]:
    """Return the figure of ours against theirs."""
    yield f"![Ours against theirs](_static/benchmarks/{figures.AGAINST})"


def number(error: float | None, floor: float | None = None) -> str:
    """Return an error; one that the truth cannot tell is less than that."""
    if error is None:
        return "–"
    if floor is not None and 0 < error < floor:
        return f"< {floor:.0e}"
    return "0" if error == 0 else f"{error:.0e}"


def shown(certificate: Certificate, where: tuple[str, str, str, str], what: str) -> str:
    """Return worst and median of a cell, and how often it failed."""
    row = certificate.rows[where]
    floor = certificate.cells[where[:3]]["truth"][what]
    text = f"{number(row[what]['worst'], floor)} ({number(row[what]['median'], floor)})"
    if row[what]["worst"] is None:
        text = "–"
    nonfinite = row[what]["nonfinite"]
    return text + (f" **{nonfinite} not finite**" if nonfinite else "")


def ours(certificate: Certificate) -> Iterable[str]:
    """Return worst and median errors of the library."""
    for dtype in ("float32", *(d for d in DTYPES if d != "float32")):
        blocks = []
        for what in ("gradient", "value"):
            body = [
                [
                    f"[{NAMES[loss]}](losses/{loss}.md)",
                    *(
                        shown(certificate, (loss, dtype, regime, LIBRARY), what)
                        for regime in REGIMES
                    ),
                ]
                for loss in certificate.losses
            ]
            blocks.append(table([f"{what}, {dtype}", *REGIMES], body))
        if dtype == "float32":
            yield from blocks
        else:
            yield from details(dtype, blocks)


def not_to_trust(certificate: Certificate) -> Iterable[str]:
    """Return the cells of the library whose errors are large."""
    body = []
    for (loss, dtype, regime), cell in certificate.cells.items():
        row = certificate.row(loss, dtype, regime)
        for what in WHAT:
            worst, limit = row[what]["worst"], careful(dtype)
            if fails(row, what) or worst is None or worst > limit:
                plain = certificate.row(loss, dtype, regime, PLAIN)[what]["worst"]
                body.append(
                    [
                        f"[{NAMES[loss]}](losses/{loss}.md)",
                        f"{dtype}, {regime}",
                        what,
                        number(worst),
                        number(row[what]["median"]),
                        number(cell["inputs"][what]),
                        number(plain),
                        str(row[what]["draw"]),
                    ]
                )
    head = ["loss", "where", "what", "worst", "median", "last bit", "plain", "draw"]
    yield table(head, body) if body else "Nowhere."


def peers(certificate: Certificate) -> Iterable[str]:
    """Return the worst errors of all others, loss by loss."""
    for loss, some in by(certificate.entrants, "loss").items():
        blocks = []
        compared = {
            (c.entrant, c.dtype, c.regime): c
            for c in certificate.comparisons()
            if c.loss == loss
        }
        body = []
        for one in some:
            for dtype in DTYPES:
                line = []
                for regime in REGIMES:
                    found = compared.get((one["entrant"], dtype, regime))
                    line.append("–" if found is None else _beside(found))
                if any(text != "–" for text in line):
                    body.append([one["entrant"], dtype, *line])
        blocks.append(table(["who", "dtype", *REGIMES], body))
        who = [
            [one["entrant"], one["how"], one["absent"] or one["note"]]
            for one in some
            if one["how"] != "this library"
        ]
        blocks.append(
            table(["who", "what runs", "what differs, or why it is not run"], who)
        )
        yield from details(NAMES[loss], blocks)


def _beside(found: Comparison) -> str:
    parts = []
    for what in WHAT:
        text = number(found.theirs[what]["worst"])
        parts.append(f"**{text}**" if found.better(what) else text)
    failed = fails(found.theirs, "gradient")
    return " / ".join(parts) + (f", {failed} failed" if failed else "")


def better(certificate: Certificate) -> Iterable[str]:
    """Return where the worst error of another is lower by more than the factor."""
    body = []
    for found in certificate.comparisons():
        for what in WHAT:
            if found.better(what, FACTOR):
                ratio = found.ratio(what)
                body.append(
                    (
                        -ratio,
                        [
                            f"[{NAMES[found.loss]}](losses/{found.loss}.md)",
                            found.entrant,
                            f"{found.dtype}, {found.regime}",
                            what,
                            number(found.theirs[what]["worst"]),
                            number(found.ours[what]["worst"]),
                            "–" if ratio == float("inf") else f"{ratio:.2g}",
                        ],
                    )
                )
    body.sort(key=lambda pair: pair[0])
    head = ["loss", "who", "where", "what", "theirs", "ours", "ratio"]
    lines = [line for _, line in body]
    first, rest = lines[:40], lines[40:]
    yield table(head, first) if first else "Nowhere."
    if rest:
        yield from details(f"{len(rest)} more", [table(head, rest)])


PARTS = {
    "said": said,
    "maps": maps,
    "not to trust": not_to_trust,
    "against": against,
    "better": better,
    "drawn": drawn,
    "ours": ours,
    "peers": peers,
}


def main(folder: Path = RESULTS) -> None:
    """Draw the figures and write the page."""
    (certificate,) = certificates(folder)
    figures.draw(certificate, FIGURES)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(rewritten(text, certificate), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
