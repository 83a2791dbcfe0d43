"""Registration of pairs that were taken apart by a known homography."""

import zipfile
from functools import partial

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadscene.baselines import (
    MATCHERS,
    SEARCHES,
    at_corners,
    corners,
    mutual_information,
    sift,
)
from roadscene.comparison import WAYS, Entry, floor, localisation, registration, text
from roadscene.data import DataError, Pair
from roadscene.evaluate import Described, Protocol, prepare_pair
from roadscene.kept import Keep
from roadscene.patches import LUMA
from roadscene.refinement import search_again, shown
from roadscene.registration import (
    FAILED,
    Keypoints,
    Matches,
    auc,
    match,
    register,
    seen_by,
    summary,
)
from roadscene.warps import mmim_cases, project, random_cases, redfeat_cases
from scipy.io import savemat


def textured(name="FLIR_1", height=200, width=260, seed=0, inverted=False, grain=5):
    """A pair of one random texture in both modalities, or of opposite contrast."""
    rng = torch.Generator().manual_seed(seed)
    fine = torch.rand(1, 1, height // grain, width // grain, generator=rng)
    grey = F.interpolate(fine, (height, width), mode="bicubic")[0].clamp(0, 1)
    return Pair(name, grey.expand(3, -1, -1), 1 - grey if inverted else grey)


def planted(case, count=60, noise=0.0, outliers=0):
    """Matches that follow the truth, and some that do not."""
    rng = np.random.default_rng(0)
    source = rng.uniform(20, 160, (count + outliers, 2))
    target = project(case.truth, source)
    target += noise * rng.standard_normal(target.shape)
    target[count:] += rng.uniform(60, 90, (outliers, 2))
    return Matches(source, target)


@pytest.fixture
def case():
    return random_cases([textured()], seed=1)[0]


# ------------------------------------------------------------------ cases


def test_the_truth_leads_from_source_to_target():
    still, moved = random_cases([textured(), textured(seed=2)], seed=3)
    assert still.source_is_rgb
    assert not moved.source_is_rgb  # they take turns
    for case in (still, moved):
        grey = [
            (image if image.ndim == 2 else image[..., 0]).astype(float)
            for image in (case.source, case.target)
        ]
        points = np.random.default_rng(0).uniform(60, 140, (200, 2)).astype(np.float32)
        there = project(case.truth, points).astype(np.float32)
        read = [
            cv2.remap(image, xy[None, :, 0], xy[None, :, 1], cv2.INTER_LINEAR)[0]
            for image, xy in zip(grey, (points, there), strict=True)
        ]
        inside = cv2.remap(
            case.valid, there[None, :, 0], there[None, :, 1], cv2.INTER_NEAREST
        )
        seen = inside[0] > 0
        assert seen.sum() > 100
        assert np.abs(read[0] - read[1])[seen].mean() < 4  # of 255
        assert np.linalg.norm(there - points, axis=1).mean() > 5


def test_random_cases_follow_the_seed():
    pairs = [textured(seed=s) for s in range(3)]
    first, again, other = (random_cases(pairs, seed=s) for s in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        assert np.array_equal(a.truth, b.truth)
        assert not np.allclose(a.truth, c.truth)


@pytest.fixture
def benchmark(tmp_path):
    """A folder as ReDFeat's VIS_IR: three listed pairs, one of which is no FLIR."""
    shift = np.float32([[1, 0, 12], [0, 1, -7], [0, 0, 1]])
    (tmp_path / "test.txt").write_text("FLIR_1.jpg\nlwir_2.png\nFLIR_3.jpg\nFLIR_4.jpg")
    points = {"vis_points": np.arange(12.0).reshape(6, 2)}
    points["ir_points"] = points["vis_points"] + 1
    with (
        zipfile.ZipFile(tmp_path / "transforms.zip", "w") as transforms,
        zipfile.ZipFile(tmp_path / "landmarks.zip", "w") as landmarks,
    ):
        for number, way in ((1, "21"), (3, "12"), (4, "21")):
            savemat(tmp_path / "x.mat", {"H": shift})
            name = f"test/transforms/{number}.{way}.mat"
            transforms.write(tmp_path / "x.mat", name)
            few = {k: v[:4] for k, v in points.items()} if number == 4 else points
            savemat(tmp_path / "x.mat", few)
            landmarks.write(tmp_path / "x.mat", f"landmarks/{number}.lms.mat")
    return tmp_path


def test_the_benchmark_is_read_as_its_authors_do(benchmark):
    names = ["FLIR_1", "FLIR_3", "FLIR_4"]
    one, three, four = redfeat_cases(benchmark, textured, names)
    assert [one.name, three.name, four.name] == names
    vis = np.arange(12.0).reshape(6, 2)
    moved = [12, -7]
    # 21: the infrared image is warped, and its points with it; 12: the visible one.
    assert one.source_is_rgb
    np.testing.assert_allclose(one.landmarks[0], vis)
    np.testing.assert_allclose(one.landmarks[1], vis + 1 + moved)
    assert not three.source_is_rgb
    np.testing.assert_allclose(three.landmarks[0], vis + 1)
    np.testing.assert_allclose(three.landmarks[1], vis + moved)
    assert four.landmarks is None  # fewer than five
    assert [c.name for c in redfeat_cases(benchmark, textured, ["FLIR_3"])] == [
        "FLIR_3"
    ]


def test_a_benchmark_that_is_not_there_is_an_error(benchmark):
    (benchmark / "landmarks.zip").unlink()
    with pytest.raises(DataError, match=r"landmarks\.zip does not exist.*VIS_IR"):
        redfeat_cases(benchmark, textured, ["FLIR_1"])
    (benchmark / "test.txt").write_text("a\n" * 4 + "FLIR_1.jpg")
    (benchmark / "landmarks.zip").touch()
    with zipfile.ZipFile(benchmark / "landmarks.zip", "w"):
        pass
    with pytest.raises(DataError, match=r"transforms\.zip has none for FLIR_1"):
        redfeat_cases(benchmark, textured, ["FLIR_1"])


def test_transforms_of_rows_that_count_from_one(tmp_path):
    """Pixel (x, y) of the infrared image shows what (x + 3, y + 2) of the visible."""
    visible = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    infrared = np.roll(visible, (-2, -3), axis=(0, 1))
    moving = np.array([[5.0, 7.0], [30.0, 20.0]])  # counted from 1
    landmarks = np.zeros((1, 1), dtype=[("LMfix", "O"), ("LMmov", "O")])
    landmarks[0, 0] = moving + np.array([3, 2]), moving
    transform = np.array([[1, 0, 0], [0, 1, 0], [3, 2, 1.0]])
    contents = {"I_fix": visible, "I_move": infrared, "T": transform}
    savemat(tmp_path / "a.mat", contents | {"Landmarks": landmarks})
    savemat(tmp_path / "other.mat", {"x": 1})
    (case,) = mmim_cases(tmp_path)
    np.testing.assert_allclose(
        project(case.truth, case.landmarks[0]), case.landmarks[1]
    )
    x, y = (int(value) for value in case.landmarks[0][0])
    u, v = (int(value) for value in case.landmarks[1][0])
    assert case.source[y, x] == case.target[v, u, 0]
    with pytest.raises(DataError, match=r"holds no \.mat files"):
        mmim_cases(tmp_path / "nowhere")


# ------------------------------------------------------------------ matching


def test_mutual_nearest_neighbours():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30, 8)).astype(np.float32)
    order = rng.permutation(30)
    points = np.arange(60.0).reshape(30, 2)
    found = match(Keypoints(points, rows), Keypoints(points[order], rows[order]))
    np.testing.assert_array_equal(found.source, found.target)
    assert len(found.source) == 30
    # A target that is nearest to two sources goes to the nearer one.
    two = np.float32([[0, 0], [1, 0]])
    one = np.float32([[0.4, 0]])
    found = match(Keypoints(points[:2], two), Keypoints(points[:1], one))
    np.testing.assert_array_equal(found.source, points[:1])


def test_the_ratio_drops_what_is_not_distinct():
    points = np.zeros((2, 2))
    targets = np.float32([[1, 0], [1.05, 0]])
    source = Keypoints(points[:1], np.float32([[0, 0]]))
    assert len(match(source, Keypoints(points, targets)).source) == 1
    assert len(match(source, Keypoints(points, targets), ratio=0.9).source) == 0
    targets[1] *= 2
    assert len(match(source, Keypoints(points, targets), ratio=0.9).source) == 1


def test_no_keypoints_no_matches():
    nothing = Keypoints(np.zeros((0, 2)), np.zeros((0, 8), np.float32))
    some = Keypoints(np.zeros((3, 2)), np.ones((3, 8), np.float32))
    assert all(
        len(match(a, b).source) == 0 for a, b in ((nothing, some), (some, nothing))
    )


def test_keypoints_stay_away_from_what_is_not_seen(case):
    asked = []

    def method(image, mask, is_rgb):
        asked.append((mask, is_rgb))
        return Keypoints(np.zeros((0, 2)), np.zeros((0, 1), np.float32))

    seen_by(method, case)
    (of_source, first), (of_target, second) = asked
    assert (first, second) == (True, False)
    assert of_source[8:-8, 8:-8].all()
    assert not of_source[:8].any()
    assert not of_source[:, -8:].any()
    assert not (of_target[case.valid == 0]).any()
    assert 0.3 < (of_target > 0).mean() < 0.95


# ------------------------------------------------------------------ measures


@pytest.mark.parametrize("estimator", ["RANSAC", "MAGSAC"])
def test_right_matches_register(case, estimator):
    found = register(case, planted(case), estimator=estimator, threshold=3.0)
    assert found["matches"] == found["ncm"] == 60
    assert found["precision_3"] == found["precision_5"] == found["inliers"] == 1
    assert found["corner"] < 1e-2
    assert np.isnan(found["landmarks"])


@pytest.mark.parametrize("estimator", ["RANSAC", "MAGSAC"])
def test_half_of_the_matches_may_be_wrong(case, estimator):
    matches = planted(case, noise=0.5, outliers=60)
    found = register(case, matches, estimator=estimator, threshold=3.0)
    assert found["precision_3"] == pytest.approx(0.5, abs=0.02)
    assert found["inliers"] == pytest.approx(0.5, abs=0.05)
    assert found["corner"] < 3


def test_errors_of_a_known_estimate(case):
    """The estimate is the truth and a shift by (3, 4): everything is off by 5."""
    landmarks = np.random.default_rng(0).uniform(0, 200, (7, 2))
    case = case._replace(landmarks=(landmarks, project(case.truth, landmarks)))
    matches = planted(case)
    shifted = matches._replace(target=matches.target + np.array([3.0, 4.0]))
    found = register(case, shifted)
    assert found["corner"] == pytest.approx(5, abs=0.05)
    assert found["landmarks"] == pytest.approx(5, abs=0.05)
    assert found["ncm"] == 0
    assert found["precision_5"] in (0, 1)  # 5 px, to rounding


def test_nothing_to_estimate_from_is_a_failure(case):
    landmarks = np.zeros((5, 2)), np.zeros((5, 2))
    for count in (0, 3):
        matches = planted(case)
        few = Matches(matches.source[:count], matches.target[:count])
        found = register(case._replace(landmarks=landmarks), few)
        assert found["corner"] == found["landmarks"] == FAILED
        assert found["inliers"] == 0


def test_the_floor_is_what_the_truth_reaches(case):
    points = np.random.default_rng(0).uniform(20, 160, (6, 2))
    there = project(case.truth, points)
    shifts = (np.array([d, 0]) for d in (2.0, 4.0, 12.0))
    off = [case._replace(landmarks=(points, there + shift)) for shift in shifts]
    found = floor([case, *off])
    assert found == {"srr": pytest.approx(2 / 3), "mean": pytest.approx(6)}
    assert floor([case]) is None


def test_auc_of_known_errors():
    assert auc(np.zeros(5), 3) == pytest.approx(1)
    assert auc(np.full(5, 4.0), 3) == 0
    # One of two is right at once: the curve rises to 1/2 at 0 and stays.
    assert auc(np.array([0.0, 9.0]), 3) == pytest.approx(0.5)
    # Recall from (0, 0) to (1, 1/2), (2, 1), then flat to 4.
    expected = (0.25 + 0.75 + 2) / 4
    assert auc(np.array([2.0, 1.0]), 4) == pytest.approx(expected)


def test_summary_counts_failures():
    base = dict.fromkeys(
        ("matches", "ncm", "precision_3", "precision_5", "inliers"), 1.0
    )
    errors = [2.0, 4.0, 50.0, 200.0, FAILED, np.nan]
    result = summary([base | {"corner": 1.0, "landmarks": e} for e in errors])
    assert result["srr"] == pytest.approx(2 / 5)
    assert result["mean_success"] == pytest.approx(3)
    assert result["collapsed"] == pytest.approx(2 / 5)
    assert result["median"] == 50
    none = summary([base | {"corner": 1.0, "landmarks": np.nan}])
    assert none["srr"] is none["median"] is None


# ------------------------------------------------------------------ baselines


@pytest.mark.parametrize("name", MATCHERS)
def test_every_matcher_registers_one_texture(name):
    case = random_cases([textured()], seed=5, shift=0.03)[0]
    found = register(case, match(*seen_by(MATCHERS[name], case)))
    assert found["corner"] < 3, found
    assert found["precision_5"] > 0.3


def test_folding_is_what_opposite_contrast_needs():
    case = random_cases([textured(inverted=True)], seed=5, shift=0.03)[0]
    results = {
        folded: register(case, match(*seen_by(sift(folded=folded, upright=True), case)))
        for folded in (False, True)
    }
    assert results[True]["precision_3"] > 3 * results[False]["precision_3"]
    assert results[True]["corner"] < 3


def test_corners_lie_in_the_mask():
    image = (255 * textured().ir[0]).byte().numpy()
    mask = np.zeros_like(image)
    mask[50:100, 80:160] = 255
    x, y = corners(image, mask).T
    assert len(x) > 10
    assert ((x >= 80) & (x < 160) & (y >= 50) & (y < 100)).all()
    assert len(corners(image, np.zeros_like(mask))) == 0


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_finds_one_texture(name):
    pair = textured(height=240, width=320, grain=16)
    protocol = Protocol(queries=20)
    table = localisation({name: [Entry(SEARCHES[name])]}, [pair], protocol)
    assert table[name]["top5"] > 0.8, table


def test_a_row_is_the_mean_over_seeds():
    pairs = [textured(seed=s) for s in range(3)]
    protocol = Protocol(queries=20)
    seeds = [SEARCHES["HOG"], SEARCHES["raw correlation"]]
    each = [
        localisation({"x": [Entry(seed)]}, pairs, protocol)["x"]["sidelobe_ratio"]
        for seed in seeds
    ]
    row = localisation({"x": [*map(Entry, seeds)]}, pairs, protocol)["x"]
    assert each[0] != each[1]
    assert row["seeds"] == 2
    assert row["sidelobe_ratio_seeds"] == pytest.approx(each)
    assert row["sidelobe_ratio"] == pytest.approx(np.mean(each))
    low, high = row["sidelobe_ratio_interval"]
    assert low < row["sidelobe_ratio"] < high


def test_mutual_information_is_that_of_a_loop():
    pair = textured(height=120, width=160)
    protocol = Protocol(queries=4, max_offset=0)
    queries = prepare_pair(pair, protocol, 0)
    found = mutual_information(queries, bins=4, size=5)
    grey = torch.tensordot(torch.tensor(LUMA), queries.rgb, ([0], [1]))[None]
    images = []
    for image in (grey, queries.ir):
        small = F.avg_pool2d(image, 4)[0, 0].numpy()
        edges = np.quantile(small, [0.25, 0.5, 0.75])
        images.append(np.pad(np.digitize(small, edges, right=True), 2, mode="edge"))
    rgb, ir = images
    for q, (x, y) in enumerate(queries.points_rgb.numpy()):
        column, row = round((x - 1.5) / 4), round((y - 1.5) / 4)
        seen = rgb[row : row + 5, column : column + 5].ravel()
        for i, j in ((0, 0), (5, 7), (10, 3), (14, 19)):  # cells of two pixels
            there = ir[2 * i : 2 * i + 5, 2 * j : 2 * j + 5].ravel()
            joint = np.histogram2d(seen, there, bins=4, range=[[0, 4], [0, 4]])[0] / 25
            apart = joint.sum(1)[:, None] * joint.sum(0)
            some = joint > 0
            expected = (joint[some] * np.log(joint[some] / apart[some])).sum()
            assert found.maps[0, q, i, j].item() == pytest.approx(expected, abs=1e-5)


def corner_error(case, homography):
    off = project(homography, case.corners) - project(case.truth, case.corners)
    return np.linalg.norm(off, axis=1).mean()


@pytest.mark.parametrize("inverted", [False, True])
def test_a_search_makes_a_rough_homography_exact(inverted):
    pair = textured(height=240, width=320, inverted=inverted)
    case = random_cases([pair], shift=0.05)[0]
    rough = np.array([[1, 0, 6], [0, 1, -5], [0, 0, 1.0]]) @ case.truth
    again = partial(search_again, case, *seen_by(MATCHERS["HOG"], case))
    better, inliers = again(rough)
    assert corner_error(case, rough) > 6
    assert corner_error(case, better) < 1.5
    assert 0.2 < inliers <= 1
    measured = [
        register(case, planted(case, noise=2.0), again=again)["corner"]
        for again in (None, again)
    ]
    assert measured[1] == pytest.approx(corner_error(case, better), abs=0.5)
    assert measured[1] < measured[0]


def test_a_search_that_finds_nothing_leaves_the_homography_alone(case):
    def blank(image, is_rgb):
        h, w = (side // 8 for side in image.shape[-2:])
        return Described(torch.ones(1, 4, h, w) / 2, 8, 3.5)

    seen = seen_by(at_corners(blank), case)
    found, inliers = search_again(case, *seen, case.truth)
    assert (found == case.truth).all()
    assert inliers == 0
    lost = np.array([[1, 0, 1e5], [0, 1, 0], [0, 0, 1.0]])  # nothing is in view
    found, inliers = search_again(case, *seen_by(MATCHERS["HOG"], case), lost)
    assert (found == lost).all()
    assert inliers == 0


def test_points_are_shown_where_the_mask_is_set():
    mask = np.zeros((3, 5), np.uint8)
    mask[2, 4] = mask[0, 0] = 255
    points = [(4, 2), (4.4, 1.6), (0, 0), (-0.6, 0), (1, 0), (5, 2), (np.nan, 0)]
    points += [(np.inf, 0), (1e12, 0)]
    expected = [True, True, True, *[False] * 6]
    assert shown(np.array(points), mask).tolist() == expected


def test_tables_have_a_row_per_method_and_way_to_estimate():
    cases = random_cases([textured(seed=s) for s in range(2)], shift=0.03)
    said = []
    methods = {name: [Entry(MATCHERS[name])] for name in ("SIFT", "HOG")}
    table = registration(methods, cases, progress=said.append)
    ways = [way for way, how in WAYS.items() if not how.search]
    expected = [f"SIFT · {way}" for way in ways] + [f"HOG · {way}" for way in WAYS]
    assert list(table) == expected
    assert len(ways) == len(WAYS) - 1
    assert said == ["SIFT", "HOG"]
    searched, alone = (
        table[f"HOG · {way}"] for way in ("RANSAC, then search", "RANSAC")
    )
    assert searched["auc_10"] > 0.5
    assert searched["inliers"] != alone["inliers"]
    assert table["SIFT · RANSAC"]["auc_10"] > 0.5
    assert table["SIFT · RANSAC"]["srr"] is None
    kept, all_of_them = (
        table[f"SIFT · {way}"]["matches"] for way in ("RANSAC, ratio test", "RANSAC")
    )
    assert 0 < kept < all_of_them
    printed = text(table, {"auc_10": "AUC@10", "srr": "SRR"})
    assert "–" in printed.splitlines()[1]
    assert "AUC@10" in printed.splitlines()[0]


def test_seeds_are_registered_each_and_pooled():
    cases = []
    for case in random_cases([textured(seed=s) for s in range(3)], shift=0.03):
        landmarks = case.corners, project(case.truth, case.corners)
        cases.append(case._replace(landmarks=landmarks))

    def blind(image, mask, is_rgb):
        return Keypoints(np.zeros((0, 2)), np.zeros((0, 128), np.float32))

    table = registration({"half": [Entry(MATCHERS["SIFT"]), Entry(blind)]}, cases)
    row = table["half · RANSAC"]
    assert row["seeds"] == 2
    assert row["srr_seeds"] == [1.0, 0.0]
    assert row["srr"] == 0.5
    assert row["srr_interval"] == [0.5, 0.5]


def test_what_is_kept_is_not_measured_again(tmp_path):
    cases = random_cases([textured(seed=s) for s in range(2)], shift=0.03)
    looked = []

    def method(image, mask, is_rgb):
        looked.append(image.shape)
        return MATCHERS["ORB"](image, mask, is_rgb)

    def measure(digest, *about):
        looked.clear()
        entries = {"ORB": [Entry(method, digest)]}
        return registration(entries, cases, Keep(tmp_path, *about)), len(looked)

    first, count = measure("a", "set")
    assert count == 4
    again, count = measure("a", "set")
    assert count == 0
    assert again == first
    assert measure("b", "set")[1] == 4  # other weights
    assert measure("a", "other set")[1] == 4
    assert registration({"ORB": [Entry(method)]}, cases) == first
    assert len(list(tmp_path.iterdir())) == 3


def test_what_was_cut_short_is_not_kept(tmp_path):
    keep = Keep(tmp_path, "about")
    with pytest.raises(KeyboardInterrupt):
        keep(lambda: (_ for _ in ()).throw(KeyboardInterrupt), "x")
    assert keep(lambda: [1.5, float("inf")], "x") == [1.5, float("inf")]
    assert keep(lambda: 1 / 0, "x") == [1.5, float("inf")]
