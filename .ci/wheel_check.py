"""Build the wheel, install it into a clean environment, and use it there.

Standard library only, apart from `build` and `twine`. Fails unless

- wheel and sdist build, and the wheel is built from the sdist;
- PyPI would take both, their description included (`twine check --strict`);
- the wheel holds the package, its `py.typed` and its licence, and nothing else;
- installing it next to torch adds one distribution: itself;
- the import is pure (see `PURITY`);
- the first Python block of README.md runs.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What `import xmodal_losses` may load on top of torch is itself and the standard
# library; torch imports numpy and triton on its own where they are installed.
PURITY = """
import sys, torch
before = set(sys.modules)
import xmodal_losses
new = {name.partition(".")[0] for name in set(sys.modules) - before}
alien = new - {"xmodal_losses", "torch"} - set(sys.stdlib_module_names)
assert not alien, f"import xmodal_losses also imports {sorted(alien)}"
assert not torch.cuda.is_initialized(), "import xmodal_losses initialises CUDA"
dist = torch.distributed
assert not (dist.is_available() and dist.is_initialized()), "... torch.distributed"
print(f"xmodal_losses {xmodal_losses.__version__} on torch {torch.__version__}")
"""


def run(*command: object, cwd: Path = ROOT) -> str:
    """Run a command and return what it printed; a failure ends the check."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    if result.returncode:
        print(result.stdout)
        sys.exit(f"wheel check: {' '.join(map(str, command[:4]))} ... failed")
    return result.stdout


def installed(python: Path) -> dict[str, str]:
    """Return the distributions of an environment and their versions."""
    listing = json.loads(run(python, "-m", "pip", "list", "--format", "json"))
    return {row["name"].lower(): row["version"] for row in listing}


def main() -> None:
    """Build, install, look, run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--constraint", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="copy what was built to this folder")
    args = parser.parse_args()
    constraint = args.constraint.resolve()

    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        run(sys.executable, "-m", "build", "--outdir", tmp / "dist")
        (wheel,) = (tmp / "dist").glob("*.whl")
        (sdist,) = (tmp / "dist").glob("*.tar.gz")
        print(f"built {sdist.name} and, from it, {wheel.name}")
        run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)

        names = zipfile.ZipFile(wheel).namelist()
        strangers = [
            name
            for name in names
            if not re.match(r"xmodal_losses(-[^/]+\.dist-info)?/", name)
        ]
        assert not strangers, f"the wheel also holds {strangers}"
        assert "xmodal_losses/py.typed" in names, "the wheel has no py.typed"
        assert any(name.endswith("LICENSE") for name in names), "no licence"

        venv.create(tmp / "env", with_pip=True)
        python = tmp / "env" / "bin" / "python"
        pip = (python, "-m", "pip", "install", "--quiet", "--constraint", constraint)
        run(*pip, "torch")
        before = installed(python)
        run(*pip, wheel)
        after = installed(python)
        added = {name for name in after if after[name] != before.get(name)}
        assert added == {"xmodal-losses"}, f"the wheel also installed {added}"
        print(f"next to torch {after['torch']} it added itself and nothing else")

        print(run(python, "-I", "-W", "ignore", "-c", PURITY, cwd=tmp).strip())

        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        example = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
        assert example, "README.md has no Python block"
        run(python, "-I", "-c", example[1], cwd=tmp)
        print("the first example of README.md ran")
        if args.keep:
            shutil.copytree(tmp / "dist", args.keep, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
