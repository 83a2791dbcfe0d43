"""The extractor in a file: what was saved is what is loaded, and how it is used."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from roadscene.data import DataError
from roadscene.export import load_features, save_features
from roadscene.model import Describer, Features
from roadscene.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "example.md"
CNN = Settings(backbone="cnn")


def saved(path, settings):
    """Save a model with statistics of its own; return it and what was loaded."""
    model = Features(settings)
    for _ in range(3):
        model(torch.rand(2, 1, 28, 28) * 2 - 1)
    save_features(path, model, settings)
    return model, load_features(path)


@pytest.mark.parametrize(
    "settings",
    [
        CNN,
        replace(CNN, stride=4, downscale=4),
        Settings(head="patch", finetune="head"),
        Settings(blocks_run=2, stage="penultimate", drop_path=0.2),
    ],
)
def test_what_is_loaded_is_what_was_saved(tmp_path, settings):
    model, features = saved(tmp_path / "features.pt", settings)
    image = torch.rand(1, 3, 61, 90)
    expected = Describer(model, settings.downscale)(image)
    maps, points = features(image)
    assert torch.equal(maps, expected.maps)
    assert not maps.requires_grad
    pitch, first = expected.pitch, expected.first
    assert points[2, 1].tolist() == [first + pitch, first + 2 * pitch]
    assert points.shape[:2] == maps.shape[2:]
    torch.load(tmp_path / "features.pt", weights_only=True)


@pytest.mark.parametrize("size", [(4, 4), (37, 53), (129, 200)])
def test_images_of_any_size_become_unit_vectors(tmp_path, size):
    _, features = saved(tmp_path / "features.pt", Settings())
    maps, points = features(torch.rand(2, 1, *size))
    cells = [-(-(n // 2) // 2) for n in size]
    assert maps.shape == (2, 128, *cells)
    assert points.shape == (*cells, 2)
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(2, *cells))


def test_images_of_a_batch_are_described_one_by_one(tmp_path):
    _, features = saved(tmp_path / "features.pt", CNN)
    images = torch.rand(2, 3, 64, 80)
    both = features(images).maps
    for image, maps in zip(images, both, strict=True):
        torch.testing.assert_close(features(image[None]).maps[0], maps)
    grey = torch.einsum("c,bchw->bhw", torch.tensor([0.299, 0.587, 0.114]), images)
    torch.testing.assert_close(features(grey[:, None]).maps, both)


def test_points_are_where_the_cells_look(tmp_path):
    _, features = saved(tmp_path / "features.pt", CNN)
    image = torch.rand(1, 1, 160, 240)
    before, points = features(image)
    changed = image.clone()
    changed[..., 70:74, 130:134] = 1 - changed[..., 70:74, 130:134]
    change = (features(changed).maps - before).norm(dim=1)[0]
    centre = (change[..., None] * points).sum((0, 1)) / change.sum()
    torch.testing.assert_close(centre, torch.tensor([131.5, 71.5]), rtol=0, atol=3)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), TypeError, "got torch.uint8"),
        (torch.zeros(3, 8, 8), ValueError, r"shape \(B, 1 or 3, H, W\), got \(3, 8, 8"),
        (torch.zeros(1, 2, 8, 8), ValueError, r"got \(1, 2, 8, 8\)"),
        (torch.zeros(1, 1, 1, 9), ValueError, "at least 2×2 pixels, got 9×1"),
    ],
)
def test_wrong_images_are_refused(tmp_path, image, error, message):
    _, features = saved(tmp_path / "features.pt", CNN)
    with pytest.raises(error, match="Extractor: image must .*" + message):
        features(image)


def test_wrong_files_are_named(tmp_path):
    path = tmp_path / "features.pt"
    with pytest.raises(DataError, match=r"features\.pt does not exist"):
        load_features(path)
    path.write_text("nothing")
    with pytest.raises(DataError, match=r"features\.pt cannot be read"):
        load_features(path)
    torch.save({"parts": {}}, path)
    with pytest.raises(DataError, match=r"features\.pt is not a file of features"):
        load_features(path)
    saved(path, CNN)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"settings": content["settings"] | {"glow": 1}}, path)
    with pytest.raises(DataError, match=r"does not know the settings glow"):
        load_features(path)
    torch.save(content | {"model": {}}, path)
    with pytest.raises(DataError, match=r"features\.pt does not fit the model"):
        load_features(path)


def test_the_documented_program_runs(tmp_path, monkeypatch, capsys):
    (program,) = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S
    )
    folder = tmp_path / "runs" / "roadscene"
    folder.mkdir(parents=True)
    saved(folder / "features.pt", Settings())
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(program, "docs/example.md", "exec"), scope)
    assert scope["map_rgb"].shape == (1, 128, 120, 160)
    assert scope["points"].shape == (120, 160, 2)
    assert re.fullmatch(
        r"\[320.5, 240.5\] looks like \[.*\]\n", capsys.readouterr().out
    )
