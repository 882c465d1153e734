"""Universal evasion and targeted success, against counting and where the best attack is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import BALL, FIGURE, assert_close
from tests.training.small import (
    everything,
    gray_pictures,
    pictures,
    through_the_middle,
    trained_target,
)
from tests.training.tiny_guard import partly_mislabelled
from training.evaluation import universal_curves
from training.evaluation.metrics import wilson_interval
from training.evaluation.universal_curves import (
    evasion_over_epsilon,
    success_over_targets,
    targeted_perturbations,
    untargeted_perturbation,
)

CRAFTING = pictures(60, seed=4)
JUDGING = partly_mislabelled(pictures(61, seed=5))
EPSILONS = (0.05, 0.12)


def _answers(perturbation: Tensor) -> np.ndarray:
    seen = (everything(JUDGING) + perturbation).clamp(0, 1)
    return np.asarray(trained_target()(seen).argmax(dim=1).numpy())


def test_evasion_is_the_share_that_gets_another_than_the_true_label() -> None:
    found = evasion_over_epsilon(
        trained_target(), CRAFTING, JUDGING, norm="linf", epsilons=EPSILONS, seed=1, steps=15
    )
    assert [point["epsilon"] for point in found] == list(EPSILONS)
    for point in found:
        epsilon, figure = point["epsilon"], point["uer"]
        crafted = untargeted_perturbation(
            trained_target(), CRAFTING, norm="linf", epsilon=epsilon, seed=1, steps=15
        )
        assert_close(crafted.abs().max(), epsilon, BALL)
        wrong = sum(
            int(answer != label)
            for answer, label in zip(_answers(crafted), JUDGING.labels.tolist(), strict=True)
        )
        assert_close(figure["value"], wrong / 61, FIGURE)
        assert figure["n"] == 61
        assert (figure["low"], figure["high"]) == wilson_interval(wrong / 61, 61)
    assert 0.1 < found[0]["uer"]["value"] < found[1]["uer"]["value"]


def test_targeted_success_counts_all_pictures() -> None:
    found = success_over_targets(
        trained_target(), CRAFTING, JUDGING, norm="linf", epsilons=EPSILONS, seed=1, steps=15
    )
    for point in found:
        crafted = targeted_perturbations(
            trained_target(), CRAFTING, range(3), norm="linf", epsilon=point["epsilon"], seed=1,
            steps=15,
        )  # fmt: skip
        rates = [np.count_nonzero(_answers(one) == k) / 61 for k, one in enumerate(crafted)]
        assert [one["target_class"] for one in point["classes"]] == [0, 1, 2]
        assert_close([one["tsr"]["value"] for one in point["classes"]], rates, FIGURE)
        assert {one["tsr"]["n"] for one in point["classes"]} == {61}
        mean = sum(rates) / 3
        assert_close(point["mean"], mean, FIGURE)
        deviation = (sum((rate - mean) ** 2 for rate in rates) / 3) ** 0.5
        assert_close(point["standard_deviation"], deviation, FIGURE)
    # Next to nothing of a perturbation: the share of the class itself is left.
    (small,) = success_over_targets(
        trained_target(), CRAFTING, JUDGING, norm="linf", epsilons=[1e-6], seed=1, steps=2
    )
    shares = np.bincount(_answers(torch.zeros(1)), minlength=3) / 61
    assert_close([one["tsr"]["value"] for one in small["classes"]], shares, FIGURE)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_best_attack_on_a_linear_classifier_is_found(norm: str) -> None:
    judging = gray_pictures(60, seed=8)
    classifier, normal = through_the_middle(gray_pictures(60))
    logits = classifier(everything(judging)).double().numpy()
    lead = logits[:, 1] - logits[:, 0]
    epsilons = (0.004, 0.012) if norm == "linf" else (0.03, 0.1)
    reach = float(normal.double().norm(p=1 if norm == "linf" else 2))
    expected = [[np.mean(lead - e * reach < 0), np.mean(lead + e * reach > 0)] for e in epsilons]
    found = success_over_targets(
        classifier, gray_pictures(60), judging, norm=norm, epsilons=epsilons, seed=0, steps=40
    )  # type: ignore[arg-type]
    rates = [[one["tsr"]["value"] for one in point["classes"]] for point in found]
    assert np.abs(np.array(rates) - expected).max() < 1.5 / 60
    assert 0.5 < np.min(expected) < np.max(expected) <= 1


def test_a_point_does_not_depend_on_the_others() -> None:
    for curve in (evasion_over_epsilon, success_over_targets):
        both = curve(
            trained_target(), CRAFTING, JUDGING, norm="linf", epsilons=EPSILONS, seed=1, steps=5
        )
        alone = curve(
            trained_target(), CRAFTING, JUDGING, norm="linf", epsilons=EPSILONS[1:], seed=1, steps=5
        )
        assert alone == both[1:]


def test_classes_are_crafted_together_as_far_as_a_pass_has_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes: list[int] = []
    craft = universal_curves.stochastic_gradient_uaps

    def counted(
        classifier: object, crafting: object, classes: list[int], **given: object
    ) -> Tensor:
        passes.append(len(classes))
        return craft(classifier, crafting, classes, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(universal_curves, "stochastic_gradient_uaps", counted)
    for room, sizes in ((1000, [3]), (119, [2, 1]), (39, [1, 1, 1])):
        monkeypatch.setattr(universal_curves, "LARGEST_PASS", room)
        passes.clear()
        told: list[tuple[int, int]] = []
        success_over_targets(
            trained_target(), CRAFTING, JUDGING, norm="linf", epsilons=EPSILONS, seed=1, steps=2,
            batch_size=40, on_step=lambda done, total, told=told: told.append((done, total)),
        )  # fmt: skip
        assert passes == sizes * 2
        steps = 2 * 2 * len(sizes)
        assert told == [(done, steps) for done in range(1, steps + 1)]


def test_progress_runs_over_all_radii_and_no_class_is_refused() -> None:
    told: list[tuple[int, int]] = []
    evasion_over_epsilon(
        trained_target(), CRAFTING, JUDGING, norm="l2", epsilons=(0.5, 1.0), seed=1, steps=3,
        on_step=lambda *step: told.append(step),
    )  # fmt: skip
    assert told == [(done, 6) for done in range(1, 7)]
    for classes, message in (((), "target_classes is empty"), ((3,), "target_class is 3")):
        with pytest.raises(InvalidArgumentError, match=message):
            success_over_targets(
                trained_target(), CRAFTING, JUDGING, norm="linf", epsilons=EPSILONS, seed=1,
                target_classes=classes, steps=2,
            )  # fmt: skip
