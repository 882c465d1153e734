"""The threshold, calibrated again on the exported graph.

A float16 rectifier removes a little else than the float32 one that the threshold was set for, so
the conformal quantile is taken anew, of the graph's own scores of the same calibration pictures.
"""

from pathlib import Path

import numpy as np
from torch import Tensor

from export.deliveries import as_integers
from export.sessions import runner
from export.splice import GuardedGraph
from prn_guard.errors import DataError
from prn_guard.preparation import to_tensor
from prn_guard.session import Device
from training.datasets import batch_for, batches
from training.guard.fit_detector import conformal_threshold
from training.guard.folder import GuardRecord
from training.guard.pictures import recorded_pictures
from training.guard.splits import split_pictures

BATCH = 64


def calibrated_threshold(
    graph: GuardedGraph, record: GuardRecord, *, data_folder: Path | None, device: Device
) -> float:
    """The threshold that keeps the record's false-positive rate on this graph.

    Raises:
        DataError: the training pictures are not those of the fit any more.
    """
    training = recorded_pictures(
        record, record.images, "train", limit=record.limit, data_folder=data_folder
    )
    calibration = split_pictures(training, seed=record.seed).calibration
    if len(calibration) != record.calibration_pictures:
        raise DataError(
            f"{record.images} now gives {len(calibration)} calibration pictures; the guard was "
            f"calibrated on {record.calibration_pictures}. Restore the training pictures, or "
            "export with --precision fp32, which keeps the threshold."
        )
    run = runner(graph.model, device=device)
    name = graph.names.score

    def score(images: Tensor) -> np.ndarray:
        return run(to_tensor(as_integers(images), record.input, graph.tensor), (name,))[name]

    size = batch_for(calibration.shape, BATCH)
    scores = np.concatenate([score(images) for images, _ in batches(calibration, size)])
    return float(
        np.float32(conformal_threshold(scores.astype(np.float64), record.false_positive_rate))
    )
