"""Does the graph decide as the torch modules do? Measured on real pictures before anything ships.

Decisions must agree on every picture outside a margin band: a flag may differ only where the score
is closer than a margin to the threshold (another picture is classified then), a label under the
same flag only where the two largest logits are closer than a margin. Where a picture is not
flagged, the logits must be bit-equal to the bare classifier's in the same runtime, and so must the
probabilities of a classifier that ends in a Softmax, if the graph answers with them. Rectified
pictures, if it answers with them, may differ by less than one step of 8 bits.
"""

import copy
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.classifier_graph import ClassifierGraph, Precision
from export.deliveries import as_images, deliveries
from export.sessions import runner
from export.splice import GuardedGraph
from prn_guard.contract import FLAGGED, LOGITS, OUTPUTS, SCORE, InputTensor, Parity
from prn_guard.errors import ArtifactError
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.preparation import to_tensor
from prn_guard.session import Device
from training.datasets import Pictures


@final
@dataclass(frozen=True)
class Margins:
    """How far the two sides may lie apart, and how close to a tie a decision is left open."""

    score: float
    logit: float


MARGINS: Final[dict[Precision, Margins]] = {
    # About a hundred times the largest differences measured on LeNet and Fashion-MNIST (8.6e-6 and
    # 1.1e-5): two float32 convolution libraries differ by about 1e-6 in what is removed, and the
    # logarithm with its floor of 1e-3 and the SVM's weights stretch that.
    "fp32": Margins(score=1e-3, logit=1e-3),
    # About twice the largest measured (benchmarks/results/graph_parity.json); the float16 graph
    # is compared with the float32 modules, whose pictures it decides a little differently.
    "fp16": Margins(score=0.1, logit=0.6),
}
RECTIFIED_MARGIN: Final = 1 / 255
"""One step of 8 bits, in which people look at the pictures. Decisions hang on the score, whose own
margin notices a thousandth of that in what is removed."""


@final
class Tally:
    """Counts of agreement over batches."""

    def __init__(self, margins: Margins) -> None:
        self.margins = margins
        self.labels = self.flags = self.differing = 0
        self.pictures = {False: 0, True: 0}
        self.inside = {False: 0, True: 0}
        self.logit_difference = self.score_difference = 0.0
        self.rectified_difference: float | None = None
        self.bit_equal = True

    def add(
        self,
        torch_side: dict[str, NDArray[Any]],
        graph: dict[str, NDArray[Any]],
        threshold: float,
        *,
        driven: bool = False,
    ) -> None:
        """Compare one batch of both sides' answers, arrays by output name.

        Args:
            torch_side: answers of the torch modules.
            graph: answers of the graph.
            threshold: of both.
            driven: whether the pictures were driven to the threshold.

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
        close_score = score_gap < self.margins.score
        close_logits = top[:, -1] - top[:, -2] < self.margins.logit
        flag_differs = torch_side["flagged"] != graph["flagged"]
        label_differs = torch_side["label"] != graph["label"]
        agreed = ~flag_differs
        self.pictures[driven] += len(score_gap)
        self.inside[driven] += int((close_score | close_logits).sum())
        if not driven:
            self.differing += int((flag_differs | label_differs).sum())
        self.flags += int((flag_differs & ~close_score).sum())
        self.labels += int((label_differs & agreed & ~close_logits).sum())
        difference = np.abs(torch_side["logits"] - graph["logits"])[agreed]
        self.logit_difference = max(self.logit_difference, float(difference.max(initial=0)))
        score_difference = np.abs(torch_side["score"] - graph["score"])
        self.score_difference = max(self.score_difference, float(score_difference.max()))

    def add_rectified(self, torch_side: NDArray[np.float32], graph: NDArray[np.float32]) -> None:
        """Compare one batch of rectified pictures, in the same layout.

        Raises:
            ArtifactError: a value is not finite, so that nothing can be compared.
        """
        difference = float(np.abs(torch_side - graph).max())
        if not np.isfinite(difference):
            raise ArtifactError(
                "The guard rectifies a picture to values that are not finite. Nothing was "
                "exported. Fit the guard anew."
            )
        self.rectified_difference = max(self.rectified_difference or 0.0, difference)

    def result(self) -> Parity:
        """The tally as it goes into the manifest."""
        return Parity(
            pictures=self.pictures[False],
            driven=self.pictures[True],
            label_mismatches=self.labels,
            flag_mismatches=self.flags,
            differing=self.differing,
            inside_margin=self.inside[False],
            driven_inside_margin=self.inside[True],
            score_margin=self.margins.score,
            logit_margin=self.margins.logit,
            max_logit_difference=self.logit_difference,
            max_score_difference=self.score_difference,
            max_rectified_difference=self.rectified_difference,
            unflagged_bit_equal=self.bit_equal,
        )


def measure_parity(
    graph: GuardedGraph,
    bare: ClassifierGraph,
    guarded: GuardedClassifier,
    pictures: Pictures,
    perturbations: Tensor,
    *,
    margins: Margins,
    device: Device = "cpu",
) -> Parity:
    """Compare graph and torch modules, and refuse a graph that does not decide as they do.

    The arguments are those of `compare`.

    Raises:
        ArtifactError: a decision differs outside the margin band, logits of an unflagged
            picture are not the bare target's, or a score or logit differs too much.
        DeviceError: "cuda" was asked for and cannot be had.
    """
    parity = compare(graph, bare, guarded, pictures, perturbations, margins=margins, device=device)
    _refuse_disparity(parity)
    return parity


def compare(
    graph: GuardedGraph,
    bare: ClassifierGraph,
    guarded: GuardedClassifier,
    pictures: Pictures,
    perturbations: Tensor,
    *,
    margins: Margins,
    device: Device = "cpu",
) -> Parity:
    """Compare graph and torch modules on every picture: clean, perturbed, at the threshold.

    Args:
        graph: the guarded graph.
        bare: the classifier alone.
        guarded: the torch modules, with the graph's threshold.
        pictures: to compare on.
        perturbations: `(P, C, H, W)`, taken in turn.
        margins: how far scores and logits may differ.
        device: what runs the graphs.

    Raises:
        ArtifactError: an answer is not finite, or every picture is flagged.
        DeviceError: "cuda" was asked for and cannot be had.
    """
    run, run_bare = runner(graph.model, device=device), runner(_answering(bare), device=device)
    spec, names = guarded.target.spec, graph.names
    same = _same_outputs(graph, bare)
    classifier_input = InputTensor(name=bare.input_name, dtype="float32", layout=spec.layout)
    tally, passed = Tally(margins), 0
    for pixels, driven in deliveries(pictures, perturbations, guarded):
        with torch.no_grad():
            answer = guarded(as_images(pixels))
        torch_side = {name: getattr(answer, name).numpy() for name in OUTPUTS}
        wanted = {*names.all(), *names.on_request, *same}
        answered = run(to_tensor(pixels, spec, graph.tensor), tuple(wanted))
        graph_side = {role: answered[name] for role, name in zip(OUTPUTS, names.all(), strict=True)}
        tally.add(torch_side, graph_side, float(guarded.detector.threshold), driven=driven)
        for name in names.on_request:
            tally.add_rectified(answer.rectified.permute(0, 2, 3, 1).numpy(), answered[name])
        alone = run_bare(to_tensor(pixels, spec, classifier_input), tuple(same.values()))
        unflagged = ~graph_side[FLAGGED]
        passed += int(unflagged.sum())
        for name, own in same.items():
            expected = alone[own].reshape(answered[name].shape)
            tally.bit_equal &= bool(_same_bits(expected, answered[name])[unflagged].all())
    if not passed:
        raise ArtifactError(
            "The graph flags every picture of the comparison, so that nothing shows whether it "
            "leaves logits alone. Nothing was exported. Compare on more pictures (--limit) or on "
            "others (--images)."
        )
    return tally.result()


def _same_bits(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where two arrays hold the same bits: 0.0 and -0.0 are equal as numbers, but not the same."""
    same: NDArray[np.bool_] = one.view(np.int32) == other.view(np.int32)
    return same


def _answering(bare: ClassifierGraph) -> onnx.ModelProto:
    """The classifier alone, answering also with the logits before a Softmax at its end."""
    if bare.before_softmax is None or bare.before_softmax in bare.outputs:
        return bare.model
    model = copy.deepcopy(bare.model)
    model.graph.output.append(onnx.ValueInfoProto(name=bare.before_softmax))
    return model


def _same_outputs(graph: GuardedGraph, bare: ClassifierGraph) -> dict[str, str]:
    """Outputs of the guarded graph whose bits must be those of the classifier alone."""
    same = {graph.names.logits: bare.before_softmax or bare.logits_name}
    if bare.logits_name in graph.outputs:
        same[bare.logits_name] = bare.logits_name
    return same


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
    if (parity.max_rectified_difference or 0.0) > RECTIFIED_MARGIN:
        problems.append(
            f"rectified pictures differ by up to {parity.max_rectified_difference:.2g}, more than "
            "a step of 8 bits"
        )
    if problems:
        raise ArtifactError(
            f"The graph does not decide as the torch modules do on {parity.pictures} pictures: "
            f"{'; '.join(problems)}. Nothing was exported. The target may use an operator that "
            "exports inexactly."
        )
