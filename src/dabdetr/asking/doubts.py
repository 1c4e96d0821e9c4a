"""What a model's answers say against an image's labels, for the causes of errors."""

from __future__ import annotations

import numpy as np

from dabdetr.asking.audit import of_image
from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.causes import Doubt
from dabdetr.structures import Answers


def doubts(data: DetectionDataset, index: int, answers: Answers) -> dict[int, Doubt]:
    """The suspicion against each label that ``audit`` has, by its row without crowds."""
    record = data.record(index)
    place = {int(row): at for at, row in enumerate(np.flatnonzero(~record.crowd))}
    return {
        place[each.row]: Doubt(each.kind, each.suspicion)
        for each in of_image(data, index, record, answers)
        if each.row is not None
    }
