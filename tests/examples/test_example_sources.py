"""One's own pairs: folders, lists, depths, splits, and every way to get them wrong."""

import sys
from itertools import chain, pairwise

import numpy as np
import pytest
import roadscene_swinfuse as script
import torch
from PIL import Image
from roadscene.data import DataError, Pair, match_folders, read_pair
from roadscene.evaluate import Protocol, evaluate
from roadscene.images import ImageInfo, image_info, read_image
from roadscene.processes import Processes
from roadscene.sources import open_source
from roadscene.splits import split_by_order
from roadscene.synthetic import synthetic_pair
from roadscene.table import read_table


@pytest.fixture(autouse=True)
def no_roadscene(monkeypatch):
    monkeypatch.delenv("ROADSCENE_DIR", raising=False)


def own(root, count=12, shape=(96, 100)):
    """Write pairs a/view_1.png and b/view_1.tif, …; return the two flags."""
    rng = np.random.default_rng(0)
    for folder, suffix in (("a", "png"), ("b", "tif")):
        (root / folder).mkdir(parents=True)
        for i in range(1, count + 1):
            image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            image.save(root / folder / f"view_{i}.{suffix}")
    return f"--data-a={root / 'a'}", f"--data-b={root / 'b'}"


def opened(*flags):
    args, _ = script.parse(flags)
    return open_source(args, Processes())


def test_two_folders_are_matched_by_stem(tmp_path):
    source = opened(*own(tmp_path))
    assert source.split.train == [f"view_{i}" for i in (5, 6, 7, 8)]
    assert source.split.left_out == [f"view_{i}" for i in (3, 4, 9, 10)]
    assert source.split.validation == ["view_1", "view_2"]
    assert source.split.test == ["view_11", "view_12"]
    (pair,) = source.pairs(["view_11"])
    with Image.open(tmp_path / "a" / "view_11.png") as image:
        grey = torch.from_numpy(np.array(image)) / 255
    assert pair.rgb.shape == (3, 96, 100)
    torch.testing.assert_close(pair.rgb, grey.expand(3, -1, -1))  # was grey
    with Image.open(tmp_path / "b" / "view_11.tif") as image:
        torch.testing.assert_close(pair.ir[0], torch.from_numpy(np.array(image)) / 255)


def test_fractions_and_gap(tmp_path):
    flags = own(tmp_path)
    flags += ("--validation-fraction=0.25", "--test-fraction=0.25", "--split-gap=0")
    split = opened(*flags).split
    assert [len(part) for part in split] == [6, 3, 3, 0]


def test_a_run_on_ones_own_thermal_images(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for i in range(8):
        pair = synthetic_pair(f"scene_{i:03d}")
        rgb = (255 * pair.rgb.permute(1, 2, 0)).byte().numpy()
        Image.fromarray(rgb).save(tmp_path / "a" / f"{i}.jpg")
        ir = (7000 + 900 * pair.ir[0]).numpy().astype(np.uint16)  # centikelvins, say
        Image.fromarray(ir).save(tmp_path / "b" / f"{i}.tif")
    metrics = script.main(
        [
            *(f"--data-a={tmp_path / 'a'}", f"--data-b={tmp_path / 'b'}"),
            *("--split-gap=1", "--smoke", "--steps=1", "--crop-size=28", "--grid=4"),
            *("--device=cpu", f"--out={tmp_path / 'out'}"),
        ]
    )
    assert metrics["split"] == {
        "train": ["2", "3", "4"],
        "validation": ["0"],
        "test": ["6", "7"],
        "left_out": ["1", "5"],
    }
    assert metrics["test_pairs"] == ["6", "7"]
    assert (tmp_path / "out" / "features.pt").exists()


@pytest.mark.parametrize("count", [5, 12, 49, 100, 191, 260, 1000])
@pytest.mark.parametrize("gap", [0, 1, 3])
def test_a_split_by_order_keeps_neighbours_apart(count, gap):
    names = [f"{i}_of_the_drive" for i in range(count)]
    split = split_by_order(reversed(names), validation=0.15, test=0.2, gap=gap)
    assert sorted(chain(*split)) == sorted(names)
    place = {name: i for i, name in enumerate(names)}
    for held in (split.validation, split.test):
        assert held
        for one in held:
            near = names[max(place[one] - gap, 0) : place[one] + gap + 1]
            assert set(near).isdisjoint(split.train)
    # The two that are held out do not meet, either.
    for a, b in pairwise(names):
        assert not ({a, b} & {*split.test} and {a, b} & {*split.validation})
    if count >= 49:
        assert len(split.test) == pytest.approx(0.2 * count, abs=3)
        assert len(split.validation) == pytest.approx(0.15 * count, abs=3)
        assert len(split.left_out) == 2 * gap * min(max(count // 50, 1), 5)


def listed(tmp_path, text, count=4):
    own(tmp_path, count)
    path = tmp_path / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_names_files_names_and_parts(tmp_path):
    path = listed(
        tmp_path,
        "\ufeffsplit,a,b,name\n"  # as spreadsheets write it
        "train,a/view_1.png,b/view_2.tif,first\n"
        f'test,"{tmp_path}/a/view_2.png",b/view_1.tif,"2, second"\n'
        "val,a/view_3.png,b/view_3.tif,c\n",
    )
    source = opened(f"--pairs={path}")
    assert source.split == (["first"], ["c"], ["2, second"], [])
    (pair,) = source.pairs(["first"])
    assert torch.equal(pair.ir, read_image(tmp_path / "b" / "view_2.tif", 1))


def test_a_list_without_names_and_parts(tmp_path):
    rows = [f"a/view_{i}.png,b/view_{i}.tif" for i in (4, 3, 2, 1)]
    path = listed(tmp_path, "\n".join(["a,b", *rows]))
    source = opened(f"--pairs={path}", "--split-gap=0")
    assert source.split == (["view_2", "view_3"], ["view_1"], ["view_4"], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"must have the columns a and b.* its first line has nothing"),
        ("a,b\n", "lists no pairs"),
        ("rgb,ir\n1,2\n", "first line has 'rgb', 'ir'"),
        ("a,b,spilt\n1,2,test\n", "first line has 'a', 'b', 'spilt'"),
        ("a,b,b\n1,2,3\n", "first line has 'a', 'b', 'b'"),
        ("a;b\n1;2\n", "first line has 'a;b'"),
        ("a,b\na/view_1.png\n", r"line 2: each of the columns a, b must have one"),
        ("a,b\n1,2,3\n", r"line 2: each of the columns a, b must have one"),
        ("a,b,split\na/view_1.png,b/view_1.tif,\n", r"line 2: each of the columns"),
        ("a,b\na/view_1.png,b/none.tif\n", r"line 2: .*b.none\.tif does not exist"),
        (
            "a,b\na/view_1.png,b/view_1.tif\na/view_1.png,b/view_2.tif\n",
            "line 3: there are two pairs called 'view_1'",
        ),
        (
            "a,b,split\na/view_1.png,b/view_1.tif,dev\n",
            "line 2: split must be train, validation or test, got 'dev'",
        ),
        ('a,b\n"a/view_1.png,b', "cannot be read as CSV"),
    ],
)
def test_wrong_lists_are_explained(tmp_path, text, message):
    with pytest.raises(DataError, match=r"pairs\.csv.*" + message):
        read_table(listed(tmp_path, text))


def test_a_list_that_is_none(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        opened(f"--pairs={tmp_path / 'none.csv'}")
    (tmp_path / "bytes.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(DataError, match=r"bytes\.csv cannot be read as CSV"):
        opened(f"--pairs={tmp_path / 'bytes.csv'}")


def test_parts_without_pairs(tmp_path):
    path = listed(tmp_path, "a,b,split\na/view_1.png,b/view_1.tif,train\n")
    with pytest.raises(DataError, match=r"Of 1 pairs, none is for validation.*'split'"):
        opened(f"--pairs={path}")
    flags = (f"--data-a={tmp_path / 'a'}", f"--data-b={tmp_path / 'b'}")
    with pytest.raises(DataError, match=r"Of 4 pairs, none is for train.*--split-gap"):
        opened(*flags)


def test_wrong_folders_are_named(tmp_path):
    a, b = own(tmp_path)
    with pytest.raises(DataError, match="nowhere is not a folder"):
        opened(a, f"--data-b={tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no images .*\.png.* looked for"):
        opened(a, f"--data-b={tmp_path / 'empty'}")
    with pytest.raises(DataError, match=r"view_1\.png is both halves of the pair"):
        opened(a, f"--data-b={tmp_path / 'a'}")
    for i in (3, 5, 7, 9):
        (tmp_path / "b" / f"view_{i}.tif").unlink()
    message = (
        r"view_3\.png has no counterpart in .*b: 4 of 12 names are missing there "
        r"\(view_3, view_5, view_7 and 1 more\)"
    )
    with pytest.raises(DataError, match=message):
        opened(a, b)
    with pytest.raises(DataError, match=r"view_3\.png has no counterpart in .*b"):
        match_folders(tmp_path / "b", tmp_path / "a")
    Image.new("L", (96, 96)).save(tmp_path / "a" / "view_4.jpg")
    with pytest.raises(DataError, match=r"holds both view_4\.jpg and view_4\.png"):
        opened(a, b)


def test_unequal_and_small_pairs_are_named(tmp_path):
    a, b = own(tmp_path / "some")
    Image.new("L", (101, 96)).save(tmp_path / "some" / "b" / "view_2.tif")
    with pytest.raises(DataError, match=r"view_2\.png is 100×96 and .*tif is 101×96"):
        opened(a, b).pairs(["view_1", "view_2"])
    source = opened(*own(tmp_path / "small", shape=(87, 100)))
    with pytest.raises(DataError, match=r"view_1 is 100×87 pixels; .* at least 88"):
        source.pairs(["view_1"])


def test_pairs_without_texture_are_named():
    pair = Pair("fog", torch.zeros(3, 120, 120), torch.zeros(1, 120, 120))
    with pytest.raises(DataError, match=r"None of 1 pairs .*fog.* with texture"):
        evaluate(None, [pair], Protocol())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data-a=x"], "--data-a and --data-b must be given together"),
        (["--data=x", "--pairs=y"], "--data and --pairs exclude each other"),
        (["--data-a=x", "--data-b=y", "--pairs=z"], "--data-a and --pairs exclude"),
        (["--data=x", "--misalignment=2"], "--data and --misalignment exclude"),
        (["--download", "--pairs=y"], "--download fetches RoadScene, which --pairs"),
        (["--data=x", "--split-gap=2"], "--split-gap is for --data-a or --pairs"),
        (["--test-fraction=0.3"], "--test-fraction is for --data-a or --pairs"),
        (["--pairs=x", "--test-fraction=1.5"], r"must be in (0, 1), got 1.5"),
        (["--pairs=x", "--test-fraction=0.9"], "must leave something to train on"),
        (["--pairs=x", "--split-gap=-1"], "must be at least 0, got -1"),
        (["--misalignment=nan"], "must be at least 0, got nan"),
    ],
)
def test_contradicting_flags_are_refused(capsys, flags, message):
    with pytest.raises(SystemExit):
        script.parse(flags)
    assert message in capsys.readouterr().err


def test_a_column_of_splits_contradicts_fractions(tmp_path):
    text = "a,b,split\na/view_1.png,b/view_1.tif,train\n"
    path = listed(tmp_path, text)
    with pytest.raises(DataError, match="column 'split', which contradicts --test-fra"):
        opened(f"--pairs={path}", "--test-fraction=0.3")


def test_flags_go_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ROADSCENE_DIR", "nowhere")
    assert len(opened(*own(tmp_path)).files) == 12
    with pytest.raises(DataError, match="nowhere is not a directory"):
        opened()


def test_made_scenes_are_misaligned_on_demand():
    source = opened("--misalignment=2.5")
    assert source.label == "synthetic scenes, 2.5 px misaligned"
    expected = synthetic_pair("scene_007", misalignment=2.5)
    assert torch.equal(source.read("scene_007").ir, expected.ir)


def test_8_bits_are_divided_and_colour_becomes_luma(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "c.png")
    assert image_info(tmp_path / "c.png") == ImageInfo(7, 5, 3, 8)
    expected = torch.from_numpy(colour).permute(2, 0, 1) / 255
    torch.testing.assert_close(read_image(tmp_path / "c.png", 3), expected)
    luma = 0.299 * expected[0] + 0.587 * expected[1] + 0.114 * expected[2]
    torch.testing.assert_close(read_image(tmp_path / "c.png", 1), luma[None])
    alpha = np.dstack([colour, colour[..., :1]])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    torch.testing.assert_close(read_image(tmp_path / "alpha.png", 3), expected)
    palette = Image.fromarray(colour).quantize(35)
    palette.save(tmp_path / "palette.png")
    assert image_info(tmp_path / "palette.png") == ImageInfo(7, 5, 3, 8)
    torch.testing.assert_close(read_image(tmp_path / "palette.png", 3), expected)


@pytest.mark.parametrize(
    ("suffix", "dtype", "bits"),
    [("png", np.uint16, 16), ("tif", np.uint16, 16), ("tif", np.float32, 32)],
)
def test_deep_images_are_stretched_one_by_one(tmp_path, suffix, dtype, bits):
    values = np.random.default_rng(0).normal(7000, 150, (60, 80)).astype(dtype)
    values[0, 0], values[0, 1] = 65535, 0  # dead pixels
    path = tmp_path / f"thermal.{suffix}"
    Image.fromarray(values).save(path)
    assert image_info(path) == ImageInfo(80, 60, 1, bits)
    low, high = np.percentile(values, (0.1, 99.9))
    expected = ((values.astype(float) - low) / (high - low)).clip(0, 1)
    image = read_image(path, 1)
    torch.testing.assert_close(image[0], torch.from_numpy(expected).float())
    assert 0.15 < image.std() < 0.2  # the dead pixels decided nothing
    assert torch.equal(read_image(path, 3), image.expand(3, -1, -1))


def test_deep_colour_keeps_its_bits(tmp_path):
    cv2 = pytest.importorskip("cv2")
    # 12 bits in 16: the upper byte alone would leave 16 levels.
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 4096, (60, 80, 3), dtype=np.uint16)
    for suffix in ("png", "tif"):
        path = tmp_path / f"c.{suffix}"
        cv2.imwrite(str(path), colour[..., ::-1])
        assert image_info(path) == ImageInfo(80, 60, 3, 16)
        low, high = np.percentile(colour, (0.1, 99.9))
        expected = ((colour - low) / (high - low)).clip(0, 1).transpose(2, 0, 1)
        image = read_image(path, 3)
        torch.testing.assert_close(image, torch.from_numpy(expected).float())


def test_deep_colour_without_opencv_says_what_to_install(tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "c.png"
    cv2.imwrite(str(path), np.zeros((4, 5, 3), np.uint16))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match=r"c\.png has .*Install opencv-python-headless"):
        read_image(path, 3)


def test_deep_images_without_contrast_or_with_gaps(tmp_path):
    path = tmp_path / "flat.tif"
    Image.fromarray(np.full((4, 5), 300, np.uint16)).save(path)
    assert torch.equal(read_image(path, 1), torch.zeros(1, 4, 5))
    Image.fromarray(np.array([[1.0, np.nan]], np.float32)).save(path)
    with pytest.raises(DataError, match=r"flat\.tif holds values that are not finite"):
        read_image(path, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_half_a_file_is_refused(tmp_path, dtype):
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    path = tmp_path / "half.png"
    cv2.imwrite(str(path), rng.integers(0, 255, (60, 80, 3)).astype(dtype))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"half\.png cannot be read as an image"):
        read_pair("half", path, path)
