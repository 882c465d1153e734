"""The threshold, calibrated again on the exported graph.

A float16 rectifier removes a little else than the float32 one that the threshold was set for, so
the conformal quantile is taken anew, of the graph's own scores of the same calibration pictures.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.deliveries import as_integers
from export.sessions import runner
from export.splice import GuardedGraph
from prn_guard.contract import InputSpec
from prn_guard.errors import DataError
from prn_guard.preparation import to_tensor
from prn_guard.session import Device
from training.datasets import Pictures, batch_for, batches, digest_of
from training.guard.fit_detector import conformal_threshold
from training.guard.folder import GuardRecord
from training.guard.pictures import recorded_pictures
from training.guard.request import fitted_pictures
from training.guard.splits import split_pictures

BATCH = 64


def calibrated_threshold(
    graph: GuardedGraph,
    record: GuardRecord,
    folder: Path,
    *,
    data_folder: Path | None,
    device: Device,
) -> float:
    """The threshold that keeps the record's false-positive rate on this graph.

    Args:
        graph: to calibrate.
        record: of the guard.
        folder: of the guard.
        data_folder: where to look for Fashion-MNIST first; None takes the fit's.
        device: what runs the graph.

    Raises:
        DataError: the training pictures are not those of the fit any more, or the guard folder
            does not say which they were.
    """
    fitted = fitted_pictures(folder)
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
    found = digest_of(training)
    if found != fitted:
        raise DataError(
            f"{record.images} now gives other pictures or labels ({found}) than the guard was "
            f"fitted on ({fitted}). Restore the training pictures, or export with --precision "
            "fp32, which keeps the threshold."
        )
    scores = graph_scores(graph, record.input, calibration, device=device)
    return float(np.float32(conformal_threshold(scores, record.false_positive_rate)))


def graph_scores(
    graph: GuardedGraph, spec: InputSpec, pictures: Pictures, *, device: Device
) -> NDArray[np.float64]:
    """The graph's scores `(N,)` of `pictures`, in order."""
    run = runner(graph.model, device=device)
    name = graph.names.score
    parts = [
        run(to_tensor(as_integers(images), spec, graph.tensor), (name,))[name]
        for images, _ in batches(pictures, batch_for(pictures.shape, BATCH))
    ]
    return np.concatenate(parts).astype(np.float64)
