"""Make the figures of *The idea in images* again: `python docs/tools/figures.py [PAGE ...]`.

Each page's own Python blocks run in an empty folder; what they save goes to docs/images/idea.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from pages import ROOT, session

IDEAS = ROOT / "docs" / "idea"
IMAGES = ROOT / "docs" / "images" / "idea"
SHOWN = re.compile(r"!\[[^\]]*\]\(\.\./images/idea/([^)]+)\)")


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
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            for figure in make(page):
                shutil.copy(figure, IMAGES / figure.name)
                print(f"{page.stem}: {figure.name}, {figure.stat().st_size / 1e3:.0f} kB")
            os.chdir(ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
