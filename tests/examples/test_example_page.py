"""The page of the study is its results."""

import json

import pytest
import roadscene_page as page
import roadscene_study as study

STUDY = page.PAGES[-1]


@pytest.mark.parametrize("path", page.PAGES, ids=str)
def test_pages_are_made_of_the_results(path):
    text = path.read_text("utf-8")
    assert page.rewritten(text) == text


def test_every_table_is_on_a_page():
    texts = [path.read_text("utf-8") for path in page.PAGES]
    shown = {name for text in texts for _, name, _ in page.MARKED.findall(text)}
    assert shown == page.SECTIONS.keys()
    marks = sum(text.count("made by examples/roadscene_page.py -->") for text in texts)
    assert marks == sum(len(page.MARKED.findall(text)) for text in texts)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Results of a made-up comparison and study, and where figures go."""
    row = {
        "seeds": 3,
        "top1": 0.25,
        "top1_interval": [0.2, 0.3],
        "top5": 0.4,
        "within": 0.5,
        "within_interval": [0.4, 0.6],
        "error": 12.3,
        "height": 0.55,
        "sidelobe_ratio": 2.71,
        "width": 18.46,
        "chance_top1": 0.002,
        "chance_within": 0.017,
    }
    registered = dict.fromkeys(("auc_3", "auc_5", "auc_10", "precision_3"), 0.1)
    registered |= {"srr": 0.73, "mean_success": None, "collapsed": 0.05, "ncm": 38.4}
    registered |= {"srr_interval": [0.6, 0.85], "inliers": 0.38}
    name = "ReDFeat's homographies"
    other_way = {"srr": 0.5, "inliers": 0.123, "mean_success": 4.321}
    comparison = {
        "cases": {name: 39},
        "floor": {name: {"srr": 0.973, "mean": 2.928}},
        "localisation": {"HOG": row, "run, trained": row | {"top1": 0.5}},
        "registration": {
            name: {
                "HOG · RANSAC": registered,
                "HOG · MAGSAC": other_way,
                "HOG · RANSAC, then search": registered | {"mean_success": 2.34},
                "SIFT · RANSAC": registered,
            }
        },
    }
    variant = row | {"count": 3, "gradient_shares": {"InfoNCE": 0.9, "mmd": 1e-4}}
    change = {"top1_change": -0.012, "top1_change_interval": [-0.03, 0.01]}
    other = {"flags": ["--quick"], "variants": {"a": variant, "b": variant | change}}
    contents = {"comparison": comparison, "study": other, "study_swinfuse": other}
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), "utf-8")
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "FIGURES", tmp_path)
    return tmp_path


def test_tables_say_what_was_measured(results):
    text = "".join(page.rewritten(path.read_text("utf-8")) for path in page.PAGES)
    first = "| HOG | 3 | 25.0 [20.0, 30.0] | 50.0 | 12.3 | 73.0 | – / 2.34 |"
    second = "| run, trained | 3 | 50.0 [20.0, 30.0] | 50.0 | 12.3 | – | – / – |"
    third = "| SIFT, folded and upright | 1 | – | – | – | – | – / – |"
    assert text.count(f"{third}\n{first}\n{second}\n") == 2
    assert "| *chance* |  | 0.2 |  | 1.7 |  |  |  |  |" in text
    found = "25.0 [20.0, 30.0] | 40.0 | 50.0 [40.0, 60.0] | 12.3 | 0.55 | 2.71 | 18.5 |"
    assert f"| HOG | 3 | {found}" in text
    assert "**ReDFeat's homographies**, 39 pairs. With the true homographies" in text
    assert "RE is 2.93 px in the mean, and below 10 px for 97.3 %." in text
    registered = "73.0 [60.0, 85.0] | – | 5.0 | 10.0 | 10.0 | 10.0 | 38 | 10.0 |"
    assert f"| HOG | {registered}" in text
    assert "|  | RANSAC | MAGSAC | RANSAC, then search |" in text
    ways = "73.0 (–; 38.0) | 50.0 (4.32; 12.3) | 73.0 (2.34; 38.0) |"
    assert f"| HOG | {ways}" in text
    assert "| SIFT | 73.0 (–; 38.0) | – | – |" in text
    assert text.count("| b | 3 | 25.0 [20.0, 30.0] | -1.2 [-3.0, 1.0] | 50.0 |") == 2
    assert "InfoNCE 90 %, mmd 0.01 %" in text
    assert "In 39 registered pairs" in text
    assert "places in the whole other image, and HOG 25.0 [20.0, 30.0] %;" in text
    assert "and HOG 73.0 %." in text
    assert "`--quick`" in text
    page.figures()
    for name in ("comparison", "study", "study_swinfuse"):
        assert (results / f"roadscene_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_not_measured_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.rewritten(STUDY.read_text("utf-8")).count("Not measured yet.") == 5


@pytest.mark.parametrize("name", ["study", "study_swinfuse"])
def test_published_studies_are_of_these_variants(name):
    result = page.read(name)
    assert result["variants"]
    for name, row in result["variants"].items():
        assert row["flags"] == list(study.VARIANTS[name])
