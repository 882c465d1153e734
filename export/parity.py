"""Does the graph decide as the torch modules do? Measured on real pictures before anything ships.

Decisions must agree on every picture outside a margin band: a flag may differ only where the score
is closer than `SCORE_MARGIN` to the threshold (another picture is classified then), a label under
the same flag only where the two largest logits are closer than `LOGIT_MARGIN`. Where a picture is
not flagged, the logits must be bit-equal to the bare target's in the same runtime.
"""

from collections.abc import Iterator
from typing import Any, Final, final

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.guarded_graph import ServedGuard
from prn_guard.contract import IMAGE, LOGITS, OUTPUTS, SCORE, Parity
from prn_guard.errors import ArtifactError
from prn_guard.nn.guarded import GuardedClassifier
from training.datasets import Pictures, batch_for
from training.evaluation.outcomes import as_delivered

SCORE_MARGIN: Final = 1e-3
"""About a hundred times the largest difference measured on LeNet and Fashion-MNIST (8.6e-6): two
float32 convolution libraries differ by about 1e-6 in what is removed, and the logarithm with its
floor of 1e-3 and the SVM's weights stretch that."""
LOGIT_MARGIN: Final = 1e-3
"""Likewise (1.1e-5), after the target."""
BATCH = 250


@final
class Tally:
    """Counts of agreement over batches."""

    def __init__(self) -> None:
        self.pictures = self.labels = self.flags = self.inside = 0
        self.logit_difference = self.score_difference = 0.0
        self.bit_equal = True

    def add(
        self, torch_side: dict[str, NDArray[Any]], graph: dict[str, NDArray[Any]], threshold: float
    ) -> None:
        """Compare one batch of both sides' answers, arrays by output name.

        Raises:
            ArtifactError: an answer is not finite, so that nothing can be compared.
        """
        for name, side in (("torch modules", torch_side), ("operators of the graph", graph)):
            if not all(np.isfinite(side[output]).all() for output in (LOGITS, SCORE)):
                raise ArtifactError(
                    f"The {name} answer a picture with logits or scores that are not finite. "
                    "Nothing was exported. Check the target on the pictures of the parity check."
                )
        score_gap = np.abs(torch_side["score"] - threshold)
        top = np.sort(torch_side["logits"], axis=1)
        close_score = score_gap < SCORE_MARGIN
        close_logits = top[:, -1] - top[:, -2] < LOGIT_MARGIN
        flag_differs = torch_side["flagged"] != graph["flagged"]
        label_differs = torch_side["label"] != graph["label"]
        agreed = ~flag_differs
        self.pictures += len(score_gap)
        self.inside += int((close_score | close_logits).sum())
        self.flags += int((flag_differs & ~close_score).sum())
        self.labels += int((label_differs & agreed & ~close_logits).sum())
        difference = np.abs(torch_side["logits"] - graph["logits"])[agreed]
        self.logit_difference = max(self.logit_difference, float(difference.max(initial=0)))
        score_difference = np.abs(torch_side["score"] - graph["score"])
        self.score_difference = max(self.score_difference, float(score_difference.max()))

    def result(self) -> Parity:
        """The tally as it goes into the manifest."""
        return Parity(
            pictures=self.pictures,
            label_mismatches=self.labels,
            flag_mismatches=self.flags,
            inside_margin=self.inside,
            score_margin=SCORE_MARGIN,
            logit_margin=LOGIT_MARGIN,
            max_logit_difference=self.logit_difference,
            max_score_difference=self.score_difference,
            unflagged_bit_equal=self.bit_equal,
        )


def measure_parity(
    graph: bytes,
    bare: bytes,
    guarded: GuardedClassifier,
    pictures: Pictures,
    perturbations: Tensor,
) -> Parity:
    """Compare graph and torch modules on every picture, clean and under one of `perturbations`.

    Args:
        graph: the serialised guarded graph.
        bare: the serialised bare target.
        guarded: the torch modules.
        pictures: to compare on.
        perturbations: `(P, C, H, W)`, taken in turn.

    Raises:
        ArtifactError: a decision differs outside the margin band, logits of an unflagged
            picture are not the bare target's, or a score or logit differs too much.
    """
    served = ServedGuard(guarded)
    session, bare_session = _session(graph), _session(bare)
    threshold = float(guarded.detector.threshold)
    tally = Tally()
    for image in _deliveries(pictures, perturbations):
        with torch.no_grad():
            answer = served(torch.from_numpy(image))
        torch_side = {name: value.numpy() for name, value in zip(OUTPUTS, answer, strict=True)}
        answered = session.run(list(OUTPUTS), {IMAGE: image})
        graph_side = dict(zip(OUTPUTS, answered, strict=True))
        tally.add(torch_side, graph_side, threshold)
        (logits,) = bare_session.run([LOGITS], {IMAGE: image})
        unflagged = ~graph_side["flagged"]
        tally.bit_equal &= bool((logits == graph_side["logits"])[unflagged].all())
    parity = tally.result()
    _refuse_disparity(parity)
    return parity


def _refuse_disparity(parity: Parity) -> None:
    problems = []
    if parity.label_mismatches or parity.flag_mismatches:
        problems.append(
            f"{parity.label_mismatches} labels and {parity.flag_mismatches} flags differ outside "
            "the margin band"
        )
    if not parity.unflagged_bit_equal:
        problems.append("logits of unflagged pictures are not bit-equal to the bare target's")
    if parity.max_score_difference > parity.score_margin:
        problems.append(
            f"scores differ by up to {parity.max_score_difference:.2g}, more than the margin of "
            f"{parity.score_margin:g}"
        )
    if parity.max_logit_difference > parity.logit_margin:
        problems.append(
            f"logits differ by up to {parity.max_logit_difference:.2g}, more than the margin of "
            f"{parity.logit_margin:g}"
        )
    if problems:
        raise ArtifactError(
            f"The graph does not decide as the torch modules do on {parity.pictures} pictures: "
            f"{'; '.join(problems)}. Nothing was exported. The target may use an operator that "
            "exports inexactly."
        )


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def _deliveries(pictures: Pictures, perturbations: Tensor) -> Iterator[NDArray[np.uint8]]:
    """Batches `(N, H, W, C)` uint8: every picture clean, then under a perturbation."""
    for number, positions in enumerate(
        torch.split(torch.arange(len(pictures)), batch_for(pictures.shape, BATCH))
    ):
        images = pictures.batch(positions)
        perturbation = perturbations[number % len(perturbations)]
        for seen in (images, as_delivered(images, perturbation)):
            pixels = (seen * 255).round().to(torch.uint8)
            yield pixels.permute(0, 2, 3, 1).contiguous().numpy()
