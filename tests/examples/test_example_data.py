"""Reading, splitting and fetching RoadScene, and the made scenes."""

import hashlib
import io
import tarfile
from itertools import chain, pairwise

import pytest
import torch
from PIL import Image
from roadscene.data import DataError, Pair, find_pairs, read_pair
from roadscene.download import (
    MMIM,
    REDFEAT,
    Files,
    download,
    download_files,
    read_manifest,
)
from roadscene.splits import (
    NEAR_DUPLICATES,
    TEST_NAMES,
    frame,
    scene_groups,
    split_by_scene,
)
from roadscene.synthetic import SYNTHETIC_SPLIT, synthetic_pair

ALL_NAMES = sorted({path.split("/")[1][:-4] for path in read_manifest()})


def test_pairs_are_found_by_suffix_and_read_as_they_are(tiny_data):
    found = find_pairs(tiny_data)
    assert list(found) == ["FLIR_00001", "FLIR_00002", "FLIR_video_00003"]
    pair = read_pair("FLIR_00001", *found["FLIR_00001"])
    assert (pair.rgb.shape, pair.ir.shape) == ((3, 16, 20), (1, 16, 20))
    with Image.open(found["FLIR_00001"][0]) as image:
        expected = torch.tensor(image.getpixel((7, 5))) / 255
    torch.testing.assert_close(pair.rgb[:, 5, 7], expected)


def test_downscaling_averages_blocks_and_cuts_the_remainder():
    rgb, ir = torch.rand(3, 9, 14), torch.rand(1, 9, 14)
    small = Pair("x", rgb, ir).downscaled(4)
    assert (small.rgb.shape, small.ir.shape) == ((3, 2, 3), (1, 2, 3))
    torch.testing.assert_close(small.ir[0, 1, 2], ir[0, 4:8, 8:12].mean())


def test_wrong_directory_is_named(tiny_data):
    with pytest.raises(DataError, match=r"nowhere is not a directory"):
        find_pairs(tiny_data / "nowhere")
    with pytest.raises(
        DataError, match=r"cropinfrared.crop_LR_visible is not a folder"
    ):
        find_pairs(tiny_data / "cropinfrared")


@pytest.mark.parametrize(
    ("folder", "other"),
    [("cropinfrared", "crop_LR_visible"), ("crop_LR_visible", "cropinfrared")],
)
def test_missing_half_is_named(tiny_data, folder, other):
    (tiny_data / folder / "FLIR_00002.png").unlink()
    message = rf"{other}.FLIR_00002\.png has no counterpart in .*{folder}"
    with pytest.raises(DataError, match=message):
        find_pairs(tiny_data)


def test_empty_folders_are_named(tiny_data):
    for path in tiny_data.glob("*/*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"crop_LR_visible holds no images"):
        find_pairs(tiny_data)


def test_unequal_sizes_name_both_files(tiny_data):
    Image.new("L", (21, 16)).save(tiny_data / "cropinfrared" / "FLIR_00002.png")
    paths = find_pairs(tiny_data)["FLIR_00002"]
    message = r"crop_LR_visible.FLIR_00002\.png is 20×16 and .*FLIR_00002\.png is 21×16"
    with pytest.raises(DataError, match=message):
        read_pair("FLIR_00002", *paths)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_unreadable_image_is_named(tiny_data, content):
    path = tiny_data / "cropinfrared" / "FLIR_00002.png"
    # None: cut the real file in half.
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(DataError, match=r"FLIR_00002\.png cannot be read as an image"):
        read_pair("FLIR_00002", *find_pairs(tiny_data)["FLIR_00002"])


def test_split_is_a_partition_with_the_published_test_names():
    split = split_by_scene(ALL_NAMES)
    assert sorted(chain(*split)) == ALL_NAMES
    assert set(split.test) == TEST_NAMES
    assert len(split.test) == 39
    assert len(split.validation) >= 20
    assert len(split.train) > 3 * len(split.validation)


def test_split_divides_no_scene():
    split = split_by_scene(ALL_NAMES)
    held_out = set(split.test) | set(split.left_out)
    parts = [set(split.train), set(split.validation), held_out]
    for known in NEAR_DUPLICATES:
        assert sum(not part.isdisjoint(known) for part in parts) == 1, known
    ordered = sorted(ALL_NAMES, key=frame)
    for a, b in pairwise(ordered):
        (series_a, number_a), (series_b, number_b) = frame(a), frame(b)
        if series_a == series_b and number_b - number_a <= 10:
            assert any({a, b} <= part for part in parts), (a, b)
    for group in scene_groups(ALL_NAMES):
        assert any(part.issuperset(group) for part in parts), group


def test_validation_is_made_of_contiguous_blocks():
    split = split_by_scene(ALL_NAMES)
    order = [name for group in scene_groups(ALL_NAMES) for name in group]
    order = [name for name in order if name in {*split.train, *split.validation}]
    held = [name in split.validation for name in order]
    changes = sum(a != b for a, b in pairwise(held))
    assert changes <= 2 * len(split.validation) / 8 + 1


def test_split_of_a_part_of_the_data():
    some = ALL_NAMES[::3]
    assert sorted(chain(*split_by_scene(some))) == some


def test_made_scenes_are_reproducible_aligned_and_reverse_contrast():
    assert not set.intersection(*(set(part) for part in SYNTHETIC_SPLIT[:3]))
    first, again = synthetic_pair("scene_003"), synthetic_pair("scene_003")
    assert torch.equal(first.rgb, again.rgb)
    assert not torch.equal(first.rgb, synthetic_pair("scene_004").rgb)
    assert first.rgb.shape[1:] == first.ir.shape[1:]
    # Edges coincide, but the sign of the contrast across them does not.
    strength, signed = [], []
    for i in range(8):
        small = synthetic_pair(f"scene_{i:03d}").downscaled(2)
        steps = [x.diff(dim=1).flatten() for x in (small.rgb.mean(0), small.ir[0])]
        both = torch.stack(steps)
        strength.append(torch.corrcoef(both.abs())[0, 1])
        signed.append(torch.corrcoef(both)[0, 1])
    assert torch.stack(strength).mean() > 0.3
    assert torch.stack(signed).mean().abs() < 0.1


@pytest.fixture
def archive(tmp_path):
    """Write an archive like GitHub's, with its manifest; returns a maker."""

    def make(files, manifest_of=None):
        path = tmp_path / "archive.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name, content in {**files, "README.md": b"about"}.items():
                member = tarfile.TarInfo(f"RoadScene-3ef68c6/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        listed = files if manifest_of is None else manifest_of
        manifest = tmp_path / "files.sha256"
        manifest.write_text(
            "".join(
                f"{hashlib.sha256(content).hexdigest()}  {name}\n"
                for name, content in listed.items()
            )
        )
        return {"url": path.as_uri(), "manifest": manifest}

    return make


FILES = {"cropinfrared/a.jpg": b"cold", "crop_LR_visible/a.jpg": b"warm"}


def test_download_extracts_what_the_manifest_lists(archive, tmp_path):
    root = tmp_path / "new" / "roadscene"
    download(root, **archive(FILES))
    found = {
        str(path.relative_to(root)): path.read_bytes() for path in root.glob("*/*")
    }
    assert found == FILES
    assert not (root / "README.md").exists()


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (FILES | {"cropinfrared/a.jpg": b"?"}, r"cropinfrared/a\.jpg has SHA-256"),
        (
            {"cropinfrared/a.jpg": b"cold"},
            r"lacks 1 of 2 files, crop_LR_visible/a\.jpg",
        ),
    ],
)
def test_download_of_something_else_leaves_nothing(archive, tmp_path, sent, message):
    root = tmp_path / "new" / "roadscene"
    with pytest.raises(DataError, match=message):
        download(root, **archive(sent, manifest_of=FILES))
    assert not list(root.parent.iterdir())


def test_download_errors_name_the_source(archive, tmp_path):
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"<html>")
    with pytest.raises(DataError, match="is not a readable archive"):
        download(tmp_path / "a", url=broken.as_uri())
    with pytest.raises(DataError, match=r"missing\.tar\.gz could not be fetched"):
        download(tmp_path / "a", url=(tmp_path / "missing.tar.gz").as_uri())
    with pytest.raises(DataError, match="is not empty"):
        download(tmp_path, **archive(FILES))


@pytest.fixture
def single(tmp_path):
    """Two files to fetch, and their manifest."""
    folder = tmp_path / "remote"
    folder.mkdir()
    (folder / "a.mat").write_bytes(b"one")
    (folder / "b.txt").write_bytes(b"two")
    manifest = tmp_path / "single.sha256"
    manifest.write_text(
        "".join(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
            for path in sorted(folder.iterdir())
        )
    )
    return Files(folder.as_uri(), manifest)


def test_single_files_are_fetched_and_verified(single, tmp_path):
    root = tmp_path / "new" / "benchmark"
    download_files(root, single)
    found = {path.name: path.read_bytes() for path in root.iterdir()}
    assert found == {"a.mat": b"one", "b.txt": b"two"}
    with pytest.raises(DataError, match="is not empty"):
        download_files(root, single)


def test_a_single_file_of_another_revision_leaves_nothing(single, tmp_path):
    (tmp_path / "remote" / "b.txt").write_bytes(b"other")
    root = tmp_path / "new" / "benchmark"
    with pytest.raises(DataError, match=r"b\.txt has SHA-256 .*not the pinned"):
        download_files(root, single)
    assert not list(root.parent.iterdir())
    (tmp_path / "remote" / "b.txt").unlink()
    with pytest.raises(DataError, match=r"remote/b\.txt could not be fetched"):
        download_files(root, single)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (REDFEAT, {"test.txt", "transforms.zip", "landmarks.zip"}),
        (MMIM, {*(f"VIS_IR_{i}.mat" for i in range(1, 11)), "VisionVI0.mat"}),
    ],
)
def test_what_is_fetched_for_registration(files, expected):
    manifest = read_manifest(files.manifest)
    assert manifest.keys() == expected
    assert all(len(digest) == 64 for digest in manifest.values())


def test_manifest_lists_both_halves_of_every_pair():
    manifest = read_manifest()
    assert len(manifest) == 442
    assert len(ALL_NAMES) == 221
    for name in ALL_NAMES:
        for folder in ("crop_LR_visible", "cropinfrared"):
            assert len(manifest[f"{folder}/{name}.jpg"]) == 64
