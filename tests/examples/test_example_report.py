"""A run's page: what it holds, that it computes what Python does, that it works."""

import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import roadscene_swinfuse as script
import torch
import torch.nn.functional as F
from roadscene import html_report, sources
from roadscene.compact import Compact, similarities
from roadscene.evaluate import Described, Protocol, peak, peak_shape, prepare_pair
from roadscene.html_report import in_blocks, page, spread
from roadscene.model import Describer, Features
from roadscene.seen import View
from roadscene.settings import Settings
from roadscene.synthetic import synthetic_pair

import chromium

pytestmark = pytest.mark.xdist_group("report")  # one worker makes the pages

RUN = (
    *("--backbone=cnn", "--steps=4", "--batch-size=2", "--crop-size=28", "--grid=4"),
    *("--downscale=8", "--validate-every=2", "--device=cpu", "--report", "--seed=1"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The pages of a short run, and of the same run in two parts."""
    folder = tmp_path_factory.mktemp("runs")
    names = [f"scene_{i:03d}" for i in range(8)]
    split = sources.SYNTHETIC_SPLIT._replace(
        train=names[:4], validation=names[4:5], test=names[5:7]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ROADSCENE_DIR", raising=False)
        patch.setattr(sources, "SYNTHETIC_SPLIT", split)
        metrics = script.main([*RUN, f"--out={folder / 'whole'}"])
        assert metrics["selected_step"] > 0  # before and after are two networks
        assert script.main([*RUN, f"--out={folder / 'parts'}", "--stop-at=2"]) is None
        assert not (folder / "parts" / "report.html").exists()
        script.main([*RUN, f"--out={folder / 'parts'}", "--resume"])
    return metrics, *(folder / name / "report.html" for name in ("whole", "parts"))


def content_of(path):
    pattern = r'<script type="application/json" id="content">(.*?)</script>'
    (text,) = re.findall(pattern, path.read_text("utf-8"), re.DOTALL)
    return json.loads(text)


@pytest.fixture(scope="module")
def content(runs):
    return content_of(runs[1])


def array(packed, dtype=np.uint8):
    data = np.frombuffer(base64.b64decode(packed["data"]), dtype)
    return data.reshape(packed["shape"])


def compact_of(state):
    maps = (torch.tensor(array(state[half], np.int8)) for half in ("rgb", "ir"))
    return Compact(*maps, torch.tensor(state["scale"]))


@pytest.mark.slow
def test_the_page_needs_nothing_but_itself(runs):
    text = runs[1].read_text("utf-8")
    for kind in ("src", "href"):
        for link in re.findall(rf'\b{kind}="([^"]*)"', text):
            assert link.startswith(("#", "data:")), link
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", text)
    assert "default-src 'none'" in text
    assert not re.search(r"/\* (page\.css|\w+\.js|content) \*/", text)
    for name in re.findall(r'byId\("([\w-]+)"\)', text):
        assert f'id="{name}"' in text, name


def test_no_name_ends_the_script_it_is_in():
    text = page(
        {"name": "</script><script>alert(1)</script>", "other": "/* page.js */"}
    )
    assert text.count("</script>") == 4
    assert "alert(1)</script>" not in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        page({"value": float("nan")})


@pytest.mark.slow
def test_a_resumed_run_writes_the_same_page(runs):
    contents = [content_of(path) for path in runs[1:]]
    for one in contents:
        one["facts"]["Run"].pop("seconds of training")
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_what_the_page_holds(runs, content):
    metrics = runs[0]
    assert [pair["name"] for pair in content["pairs"]] == metrics["test_pairs"]
    assert content["states"].keys() == {"before", "after"}
    (top1, *_) = content["table"]
    assert top1["after"] == pytest.approx(100 * metrics["result"]["top1"]["after"])
    assert top1["label"] == "retrieval top-1 (%)"
    training = content["training"]
    assert training["terms"]["total"]["y"] == pytest.approx(metrics["terms"]["total"])
    assert training["terms"]["total"]["x"] == [1, 2, 3, 4]
    assert training["shares"]["mmd"]["x"] == [0, 2]
    assert training["validation"]["step"] == [0, 2, 4]
    assert content["facts"]["Settings"]["backbone"] == "cnn"
    assert len(content["registered"]) == 2
    for pair in content["pairs"]:
        for half in ("rgb", "ir"):
            start, data = pair[half].split(",", 1)
            assert start == "data:image/jpeg;base64"
            assert base64.b64decode(data).startswith(b"\xff\xd8")
        before, after = pair["states"]["before"], pair["states"]["after"]
        assert before["ir"] != after["ir"]
        assert before["colours_rgb"]["shape"] == [*before["rgb"]["shape"][:2], 3]
        for *_, off in after["matches"]:
            assert off >= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights"), [("before", "initial"), ("after", "best")]
)
def test_similarities_are_those_of_the_network(runs, content, name, weights):
    metrics, path, _ = runs
    stored = torch.load(path.parent / "checkpoint.pt", weights_only=True)
    model = Features(Settings(**metrics["settings"]))
    model.load_state_dict(stored["progress"][weights])
    describe = Describer(model, metrics["settings"]["downscale"])
    for index, pair in enumerate(content["pairs"]):
        queries = prepare_pair(synthetic_pair(pair["name"]), Protocol(), index)
        full = View.of(describe, queries.rgb, queries.ir).scores(queries.points_rgb)
        cells = (queries.points_rgb - 3.5) / 16
        kept = similarities(compact_of(pair["states"][name]), cells)
        assert (kept - full).square().mean().sqrt() < 0.03
        assert np.corrcoef(kept.flatten(), full.flatten())[0, 1] > 0.99
    kept = content["states"][name]["kept"]
    assert 0.99 < kept["correlation"] <= 1
    assert 0.7 < kept["same_peak"] <= 1


ASK = """
const content = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const answers = content.map(({ state, cells, lobe }) => {
  const rgb = mapOf(state.rgb, state.scale), ir = mapOf(state.ir, state.scale);
  return cells.map(([column, row]) => {
    const map = similarities(rgb, ir, column, row), peak = peakOf(map);
    const ratio = sidelobeRatio(map, peak, lobe);
    return { scores: [...map.scores], peak, ratio, at: scoreAt(map, 2.25, 3.5),
      outside: scoreAt(map, -0.6, 0), rank: rankOf(map, map.scores[7]) };
  });
});
console.log(JSON.stringify(answers));
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("node"), reason="no node to run the page's script")
def test_the_page_computes_what_python_does(content):
    rng = np.random.default_rng(0)
    questions = []
    for pair in content["pairs"]:
        for state in pair["states"].values():
            h, w, _ = state["rgb"]["shape"]
            inside = rng.uniform(0, 1, (20, 2)) * [w - 1, h - 1]
            cells = [*inside.tolist(), [-1, -1], [w, h], [0, h - 1], [3, 2]]
            questions.append({"state": state, "cells": cells, "lobe": 1.5})
    program = (html_report.PAGE / "compute.js").read_text("utf-8") + ASK
    answered = subprocess.run(
        ["node", "-e", program],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        check=True,
    )
    for question, answers in zip(questions, json.loads(answered.stdout), strict=True):
        compact = compact_of(question["state"])
        h, w, _ = compact.ir.shape
        maps = similarities(compact, torch.tensor(question["cells"]))
        scores = torch.tensor([one["scores"] for one in answers]).view(-1, h, w)
        torch.testing.assert_close(scores, maps, atol=1e-5, rtol=0)
        places = [[one["peak"]["column"], one["peak"]["row"]] for one in answers]
        torch.testing.assert_close(
            torch.tensor(places), peak(scores), atol=1e-4, rtol=0
        )
        shape = peak_shape(scores, Protocol(lobe=12.0), pitch=8.0)
        for one, map_, height, ratio in zip(
            answers, scores, shape["height"], shape["sidelobe_ratio"], strict=True
        ):
            assert one["peak"]["value"] == pytest.approx(height.item())
            assert one["ratio"] == pytest.approx(ratio.item(), rel=1e-4)
            mean = map_[3:5, 2:4] * torch.tensor([0.75, 0.25]) / 2
            assert one["at"] == pytest.approx(mean.sum().item(), abs=1e-6)
            assert one["outside"] is None
            above = (map_ > map_.flatten()[7]).sum().item()
            assert one["rank"] == above + 1


def test_curves_are_averaged_over_blocks():
    curve = in_blocks(list(range(1000)))
    assert len(curve["x"]) == 200
    assert curve["x"][0] == 3  # the middle of steps 1 to 5
    assert curve["y"][:2] == [2.0, 7.0]
    assert in_blocks([4.0, 6.0]) == {"x": [1.0, 2.0], "y": [4.0, 6.0]}
    assert in_blocks(list(range(401)))["x"][-1] == 400.5  # what is left over


def test_pairs_are_chosen_evenly():
    assert spread(list(range(39)), 3) == [0, 19, 38]
    assert spread([1, 2], 12) == [1, 2]
    assert spread([1, 2, 3], 1) == [1]


def test_fine_maps_mean_fewer_pairs(monkeypatch):
    def describe(image, is_rgb):
        small = F.avg_pool2d(image.mean(1, keepdim=True), 8)
        maps = torch.cat([small + 1, small - 1], dim=1)
        return Described(F.normalize(maps, dim=1), 8, 3.5)

    pairs = [synthetic_pair(f"scene_{i:03d}", height=160, width=192) for i in range(4)]
    states = {"before": describe, "after": describe}
    cells = 2 * (20 * 24 + 18 * 22)
    monkeypatch.setattr(html_report, "FEATURES", int(2.5 * cells * html_report.DIMS))
    monkeypatch.setattr(html_report, "registered", lambda *_: [])
    built = html_report.build(states, pairs, pairs[:1], Protocol())
    assert len(built["pairs"]) == 2
    assert built["pairs_available"] == 4
    assert built["dims"] == 2


@pytest.fixture(scope="module")
def browser(runs, tmp_path_factory):
    program = chromium.find()
    if program is None:
        pytest.skip("no Chromium to open the page in")
    try:
        opened = chromium.Page(program, tmp_path_factory.mktemp("profile"))
    except ConnectionError:
        pytest.skip(f"{program} does not start")
    try:
        opened.open(runs[1])
        opened.run("choose(0)")
        yield opened
    finally:
        opened.close()


def drawing(browser, name):
    return browser.run(f"byId('{name}').toDataURL()")


def centre(browser, name, x=0.5, y=0.5):
    box = browser.run(
        f"byId('{name}').scrollIntoView({{block: 'center'}}),"
        f"(({{left, top, width, height}}) => [left, top, width, height])"
        f"(byId('{name}').getBoundingClientRect())"
    )
    return box[0] + x * box[2], box[1] + y * box[3]


MAPS = ("visible", "infrared", "map-before", "map-after", "surface-after")


@pytest.mark.slow
def test_a_click_asks_for_another_place(browser, content):
    before = [drawing(browser, name) for name in MAPS]
    said = browser.run("byId('said').textContent")
    read = browser.run("byId('readout').textContent")
    browser.click(*centre(browser, "visible", 0.4, 0.6))
    after = [drawing(browser, name) for name in MAPS]
    for name, one, other in zip(MAPS, before, after, strict=True):
        assert one != other, name
    assert browser.run("byId('said').textContent") != said
    assert browser.run("byId('readout').textContent") != read

    # What is drawn is what Python computes for that place.
    x, y = browser.run("[shown.x, shown.y]")
    pair = content["pairs"][0]
    width, height = pair["size"]
    assert (x, y) == pytest.approx((0.4 * width, 0.6 * height), abs=2)
    for name, state in pair["states"].items():
        geometry = content["states"][name]
        cell = (torch.tensor([[x, y]]) - geometry["first"]) / geometry["pitch"]
        expected = similarities(compact_of(state), cell)[0]
        scores = browser.run(f"[...shown.measured.{name}.map.scores]")
        torch.testing.assert_close(
            torch.tensor(scores).view_as(expected), expected, atol=1e-5, rtol=0
        )
        place = geometry["first"] + geometry["pitch"] * peak(expected[None])[0]
        truth = torch.tensor([x, y]) - torch.tensor(pair["offset"])
        error = browser.run(f"shown.measured.{name}.error")
        assert error == pytest.approx((place - truth).norm().item(), abs=1e-2)
        assert f"{error:.1f} px" in browser.run("byId('readout').textContent")


@pytest.mark.slow
def test_keys_move_the_place_and_choose_the_pair(browser, content):
    browser.run("choose(0)")
    browser.run("byId('visible').focus()")
    x, y = browser.run("[shown.x, shown.y]")
    browser.press("ArrowLeft")
    browser.press("ArrowDown", shift=True)
    assert browser.run("[shown.x, shown.y]") == [x - 4, y + 16]
    browser.press("n")
    assert browser.run("[shown.x, shown.y]") == content["pairs"][0]["queries"][1]

    seen = [drawing(browser, name) for name in ("visible", "matches-after")]
    browser.run("document.querySelector('#chooser input').focus()")
    browser.press("ArrowRight")
    browser.run("shown.wanted.ready")
    browser.drawn()
    assert browser.run("shown.pair.name") == content["pairs"][1]["name"]
    for name, one in zip(("visible", "matches-after"), seen, strict=True):
        assert drawing(browser, name) != one


@pytest.mark.slow
def test_a_place_that_was_cut_off_has_no_error(browser, content):
    index = next(i for i, one in enumerate(content["pairs"]) if max(one["offset"]) > 4)
    browser.run(f"choose({index})")
    browser.run("move(0, 0)")
    browser.drawn()
    assert "cut off" in browser.run("byId('said').textContent")
    assert browser.run("shown.measured.after.error") is None


@pytest.mark.slow
def test_switches_change_what_is_drawn(browser):
    browser.run("choose(0)")
    for control, name, action in (
        ("beneath", "map-after", "one.value = 0.6"),
        ("turn", "surface-after", "one.value = 60"),
    ):
        before = drawing(browser, name)
        browser.run(
            f"{{const one = byId('{control}'); {action};"
            "one.dispatchEvent(new Event('input'))}"
        )
        browser.drawn()
        assert drawing(browser, name) != before, control
    before = drawing(browser, "matches-after")
    browser.run("document.querySelector('#kinds input[value=wrong]').click()")
    browser.drawn()
    assert drawing(browser, "matches-after") != before


@pytest.mark.slow
def test_small_dark_and_without_errors(browser):
    try:
        browser.resize(390, 844, mobile=True)
        browser.scheme("dark")
        browser.drawn()
        assert browser.run("document.documentElement.scrollWidth") <= 390
        assert browser.run("getComputedStyle(document.body).backgroundColor") == (
            "rgb(20, 24, 28)"
        )
    finally:
        browser.resize(1200, 900)
        browser.scheme("light")
    unnamed = browser.run(
        "[...document.querySelectorAll('canvas, img, svg:not([aria-hidden])')]"
        ".filter(one => !one.getAttribute('aria-label') && !one.alt)"
        ".map(one => one.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    assert browser.run("document.querySelectorAll('.charts svg[role]').length") == 4
    assert browser.errors == []
