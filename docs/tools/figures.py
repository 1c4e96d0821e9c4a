"""Make the figures of *The idea in images* again: `python docs/tools/figures.py [PAGE ...]`.

Each page's own Python blocks run in an empty folder; what they save goes to docs/images/idea. They
run twice: on white, and for readers of the dark pages on dark ground, as ``NAME-dark.png``.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from matplotlib import rc_context, style
from pages import ROOT, session

IDEAS = ROOT / "docs" / "idea"
IMAGES = ROOT / "docs" / "images" / "idea"
SHOWN = re.compile(r"!\[[^\]]*\]\(\.\./images/idea/([^)]+)\)")


GROUND = "#1e2129"
DARK: Any = {
    **style.library["dark_background"],
    "figure.facecolor": GROUND,
    "savefig.facecolor": GROUND,
    "axes.facecolor": GROUND,
}
"""As ``slate`` of the pages' theme."""


def shown(page: Path) -> list[str]:
    """Names of the figures on a page."""
    return SHOWN.findall(page.read_text())


def make(page: Path) -> list[Path]:
    """Run the page's code; the figures of it that now lie in the current folder."""
    session(page, ["python"])
    return [Path(name) for name in shown(page) if Path(name).exists()]


def main(names: list[str]) -> None:
    pages = [IDEAS / f"{name}.md" for name in names] or sorted(IDEAS.glob("*.md"))
    IMAGES.mkdir(parents=True, exist_ok=True)
    for page in pages:
        for colours, suffix in (({}, ""), (DARK, "-dark")):
            with tempfile.TemporaryDirectory() as folder, rc_context(colours):
                os.chdir(folder)
                for figure in make(page):
                    if suffix and figure.suffix == ".gif":  # an image alone: no ground
                        continue
                    name = f"{figure.stem}{suffix}{figure.suffix}"
                    shutil.copy(figure, IMAGES / name)
                    print(f"{page.stem}: {name}, {figure.stat().st_size / 1e3:.0f} kB")
                os.chdir(ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
