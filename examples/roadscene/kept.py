"""Results that are kept, so that a long command goes on where it was cut short."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Keep"]


class Keep:
    """Make a result once, and read it afterwards.

    Args:
        folder: Where results are kept; without one, all are made.
        about: What all of them depend on.
    """

    def __init__(self, folder: Path | None, *about: Any) -> None:
        self.folder, self.about = folder, about

    def __call__(self, make: Callable[[], Any], *about: Any) -> Any:
        """Return what `make` does, JSON; `about` is what it depends on besides."""
        if self.folder is None:
            return make()
        told = json.dumps([self.about, about], ensure_ascii=False)
        name = hashlib.sha256(told.encode()).hexdigest()[:20]
        path = self.folder / f"{name}.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}")  # others may make the same
            part.write_text(json.dumps({"about": told, "result": make()}), "utf-8")
            part.replace(path)
        return json.loads(path.read_text("utf-8"))["result"]
