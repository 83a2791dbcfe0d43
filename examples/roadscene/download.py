"""Fetch RoadScene, and what registers it, at one revision; verify every file.

`roadscene.sha256` lists the 442 images of the two folders used, in the format of
``sha256sum``. The images themselves are not part of this project: they are derived
from the FLIR ADAS videos and published without a licence at
github.com/jiayi-ma/RoadScene, where the authors ask to cite Xu et al., "FusionDN: A
Unified Densely Connected Network for Image Fusion", AAAI 2020.

The homographies and landmarks of ReDFeat's benchmark (`redfeat.sha256`), and the
unaligned pairs of a matching survey (`mmim.sha256`), are single files of two other
repositories, without a licence either.
"""

import hashlib
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from .data import DataError

__all__ = [
    "HOW_TO_GET",
    "MMIM",
    "REDFEAT",
    "URL",
    "Files",
    "download",
    "download_files",
    "read_manifest",
]

REVISION = "3ef68c68ef1294671f033e3080096b314a431872"
URL = f"https://codeload.github.com/jiayi-ma/RoadScene/tar.gz/{REVISION}"
MANIFEST = Path(__file__).with_name("roadscene.sha256")


class Files(NamedTuple):
    """Single files of a repository, at one revision."""

    url: str  # of their folder
    manifest: Path


RAW = "https://raw.githubusercontent.com"
REDFEAT = Files(
    f"{RAW}/ACuOoOoO/Multimodal_Feature_Evaluation/"
    "f840dc8bce28f6854b25324bc1a360e519072379/VIS_IR",
    MANIFEST.with_name("redfeat.sha256"),
)
MMIM = Files(
    f"{RAW}/StaRainJ/Multi-modality-image-matching-database-metrics-methods/"
    "ed2d5a4c8cc5b23297ecc598e2df1ab016422daa/"
    "Multimodal_Image_Matching_Datasets/ComputerVision/VIS_IR",
    MANIFEST.with_name("mmim.sha256"),
)

HOW_TO_GET = """\
No data: using procedurally made scenes. For real pairs, either
  python examples/roadscene_swinfuse.py --download --data data/roadscene
or clone https://github.com/jiayi-ma/RoadScene and pass its directory with --data
or in the environment variable ROADSCENE_DIR. The images have no stated licence."""


def read_manifest(path: Path = MANIFEST) -> dict[str, str]:
    """Map relative path to SHA-256."""
    lines = path.read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def fetch(url: str, archive: Path) -> None:
    """Download `url` to `archive`."""
    try:
        with (
            urllib.request.urlopen(url, timeout=60) as reply,
            archive.open("wb") as out,
        ):
            size = int(reply.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, unit="B", unit_scale=True, desc="download") as bar:
                while chunk := reply.read(1 << 20):
                    out.write(chunk)
                    bar.update(len(chunk))
    except OSError as error:
        raise DataError(f"{url} could not be fetched: {error}.") from error


def empty(root: str | Path) -> Path:
    """Make sure that there is nothing at `root`, but a folder to put it in."""
    root = Path(root)
    if root.exists() and any(root.iterdir()):
        raise DataError(f"{root} is not empty. Name a new directory.")
    root.parent.mkdir(parents=True, exist_ok=True)
    return root


def put(folder: Path, root: Path) -> None:
    """Move a folder to `root`, all at once."""
    if root.exists():
        root.rmdir()
    shutil.move(folder, root)


def check_digest(name: str, found: str, expected: str, source: str) -> None:
    """Refuse a file that is not the one that was pinned."""
    if found != expected:
        raise DataError(
            f"{name} has SHA-256 {found}, expected {expected}. {source} is not the "
            "pinned revision."
        )


def extract_verified(archive: Path, root: Path, manifest: dict[str, str]) -> None:
    """Write the manifest's files from the archive, each only if its digest agrees."""
    missing = set(manifest)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                # GitHub puts everything under one directory named by the revision.
                name = "/".join(PurePosixPath(member.name).parts[1:])
                content = tar.extractfile(member) if name in missing else None
                if content is None:
                    continue
                data = content.read()
                digest = hashlib.sha256(data).hexdigest()
                check_digest(name, digest, manifest[name], archive.name)
                target = root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                missing.discard(name)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{archive} is not a readable archive: {error}.") from error
    if missing:
        raise DataError(
            f"{archive.name} lacks {len(missing)} of {len(manifest)} files, "
            f"{min(missing)} among them."
        )


def download_files(root: str | Path, files: Files) -> None:
    """Put verified single files at `root`, which must not exist or be empty."""
    root = empty(root)
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        fetched = Path(scratch) / "verified"
        fetched.mkdir()
        for name, expected in read_manifest(files.manifest).items():
            fetch(f"{files.url}/{name}", fetched / name)
            digest = hashlib.sha256((fetched / name).read_bytes()).hexdigest()
            check_digest(name, digest, expected, files.url)
        put(fetched, root)


def download(root: str | Path, *, url: str = URL, manifest: Path = MANIFEST) -> None:
    """Put the verified data set at `root`, which must not exist or be empty.

    The files appear at `root` all at once: an interrupted or wrong download leaves
    nothing there.
    """
    root = empty(root)
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        archive = Path(scratch) / "roadscene.tar.gz"
        fetch(url, archive)
        extracted = Path(scratch) / "verified"
        extract_verified(archive, extracted, read_manifest(manifest))
        put(extracted, root)
