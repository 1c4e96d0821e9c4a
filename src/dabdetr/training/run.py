"""A finished training: its folder, and the numbers of its epochs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dabdetr.config import Config
from dabdetr.report.page import PAGE
from dabdetr.training.history import Row, best_row


@dataclass(frozen=True)
class Run:
    """A finished training.

    rows  one for each epoch, as in results.csv; a value that was not measured is None
    data  counts of each split that was read from files, and what was odd in it
    """

    folder: Path
    config: Config
    rows: tuple[Row, ...]
    data: tuple[dict[str, Any], ...] = ()

    @property
    def ap(self) -> float | None:
        """AP of the best epoch; None where there was no validation split."""
        return self._best("AP")

    @property
    def ap50(self) -> float | None:
        """AP50 of the best epoch."""
        return self._best("AP50")

    @property
    def weights(self) -> Path:
        """The best weights, or the last ones of a run without validation."""
        best = self.folder / "best.safetensors"
        return best if best.exists() else self.folder / "last.safetensors"

    @property
    def report(self) -> Path | None:
        """The page of its report, if there is one."""
        page = self.folder / PAGE
        return page if page.exists() else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        best = best_row(self.rows)
        return {
            "folder": str(self.folder),
            "weights": str(self.weights),
            "report": None if self.report is None else str(self.report),
            "best": best,
            "last": self.rows[-1],
            "data": list(self.data),
        }

    def _best(self, name: str) -> float | None:
        best = best_row(self.rows)
        return None if best is None else best[name]
