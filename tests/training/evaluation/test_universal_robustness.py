"""The search for the smallest universal perturbation, where a linear classifier has it exactly."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import BALL
from tests.training.small import (
    SHAPE,
    VALUES,
    everything,
    gray_pictures,
    linear_classifier,
    pictures,
    trained_target,
)
from training.attacks import registry
from training.attacks.norms import Norm, norm_of
from training.datasets import ArrayPictures
from training.evaluation import universal_robustness as module
from training.evaluation.universal_robustness import Probe, universal_robustness

LARGEST = {"linf": 1.0, "l2": VALUES**0.5}


def _one_sided() -> tuple[nn.Module, Tensor, ArrayPictures]:
    """A classifier that says "yes", rightly, to every picture; its normal; the pictures."""
    normal = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4)) * 0.15
    some = gray_pictures(40)
    values = (everything(some) * normal).sum(dim=(1, 2, 3))
    classifier = linear_classifier(normal, 0.5 - float(values.min()))
    pixels = (everything(some) * 255).round().to(torch.uint8)
    return classifier, normal, ArrayPictures(pixels, torch.ones(40).long(), ("no", "yes"))


def _closed_form(norm: Norm, rate: float) -> float:
    """The radius at which the best perturbation, straight along the normal, flips `rate`."""
    classifier, normal, some = _one_sided()
    logits = classifier(everything(some)).double()
    margins = (logits[:, 1] - logits[:, 0]).sort().values
    needed = float(margins[int(rate * len(margins)) - 1])
    dual = normal.double().abs().sum() if norm == "linf" else normal.double().norm()
    return needed / float(dual)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("rate", [0.5, 0.75])
def test_a_linear_classifiers_smallest_radius_is_found(norm: Norm, rate: float) -> None:
    classifier, _, some = _one_sided()
    exact = _closed_form(norm, rate)
    assert exact < (0.34 if norm == "linf" else 3.0)
    seen: list[tuple[Probe, Tensor]] = []
    found = universal_robustness(
        classifier,
        some,
        some,
        norm=norm,
        seed=0,
        rate=rate,
        on_probe=lambda probe, perturbation: seen.append((probe, perturbation)),
    )
    assert found.epsilon is not None
    # An upper bound: never below what is possible, and above it by the bracket at most, in l2 also
    # by what the attack falls short of the best direction (WORST_CASE).
    slack = LARGEST[norm] / 2**10 + (0.0 if norm == "linf" else 2e-3 * exact)
    assert exact - BALL.absolute <= found.epsilon <= exact + slack
    assert found.not_reached < found.epsilon
    assert found.epsilon - found.not_reached == pytest.approx(LARGEST[norm] / 2**10)
    assert (found.clean_error, found.rate, len(found.probes)) == (0.0, rate, 10)
    assert tuple(probe for probe, _ in seen) == found.probes
    for probe, perturbation in seen:
        assert float(norm_of(perturbation, norm)) <= probe.epsilon + BALL.absolute
        flipped = (classifier((everything(some) + perturbation).clamp(0, 1)).argmax(1) == 0).float()
        assert float(flipped.mean()) == pytest.approx(probe.evasion_rate)


def _search(target: nn.Module, **options: object) -> module.UniversalRobustness:
    return universal_robustness(  # type: ignore[arg-type]
        target,
        pictures(60, seed=2),
        pictures(60, seed=3),
        norm="linf",
        seed=1,
        number=6,
        steps=8,
        **options,
    )


def test_every_probe_halves_the_bracket() -> None:
    found = _search(trained_target(), rate=0.6)
    low, high = 0.0, 1.0
    for probe in found.probes:
        assert probe.epsilon == (low + high) / 2
        low, high = (low, probe.epsilon) if probe.evasion_rate >= 0.6 else (probe.epsilon, high)
    assert (found.not_reached, found.epsilon) == (low, high)
    reached = [probe.epsilon for probe in found.probes if probe.evasion_rate >= 0.6]
    assert found.epsilon == min(reached)


def test_a_search_that_goes_on_finds_what_it_would_have_found_in_one_go() -> None:
    seen: list[tuple[Probe, Tensor]] = []
    whole = _search(trained_target(), on_probe=lambda *probed: seen.append(probed))
    for done in (1, 4, 6):
        crafted: list[Probe] = []
        again = _search(
            trained_target(),
            probes=[probe for probe, _ in seen[:done]],
            start=seen[done - 1][1],
            on_probe=lambda probe, _, crafted=crafted: crafted.append(probe),
        )
        assert again == whole
        assert len(crafted) == 6 - done


def test_each_attack_goes_on_from_the_last_one_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[registry.AttackJob] = []

    def fake(_name: str, job: registry.AttackJob) -> Tensor:
        jobs.append(job)
        return torch.full(SHAPE, job.epsilon)

    monkeypatch.setattr(module, "craft", fake)
    _search(trained_target())
    assert jobs[0].start is None
    for job in jobs[1:]:
        assert job.start is not None
        assert float((job.start - job.epsilon).abs().max()) <= BALL.absolute
    jobs.clear()
    _search(trained_target(), method="iterative-deepfool")
    starts = "start" in registry.method("iterative-deepfool").takes
    assert [job.start is None for job in jobs] == [True] + [not starts] * 5


def test_a_rate_that_is_never_reached_ends_the_search_with_that() -> None:
    # Nothing of the picture counts: both classes of the pictures get the same answer.
    classifier = linear_classifier(torch.zeros(SHAPE), 1.0)
    some = gray_pictures(40)
    error = float((some.labels == 0).double().mean())
    found = universal_robustness(
        classifier, some, some, norm="linf", seed=0, rate=error + 0.01, number=5, steps=2
    )
    assert found.epsilon is None
    assert found.not_reached == 1 - 2**-5
    assert [probe.evasion_rate for probe in found.probes] == [error] * 5


def test_what_makes_no_sense_is_refused() -> None:
    classifier = linear_classifier(torch.zeros(SHAPE), 1.0)
    with pytest.raises(InvalidArgumentError, match="misclassified without any perturbation"):
        _search_gray(classifier, rate=0.1)
    with pytest.raises(InvalidArgumentError, match="rate is 75; expected above 0 and at most 1"):
        _search_gray(classifier, rate=75)
    known = Probe(epsilon=0.5, evasion_rate=0.9)
    with pytest.raises(InvalidArgumentError, match="They belong to another search"):
        _search_gray(classifier, rate=0.9, probes=(replace(known, epsilon=0.4),))
    with pytest.raises(InvalidArgumentError, match="number is 1; expected at least 1, and no few"):
        _search_gray(classifier, rate=0.9, number=1, probes=(known, known))


def _search_gray(
    classifier: nn.Module, *, rate: float, number: int = 3, probes: tuple[Probe, ...] = ()
) -> None:
    some = gray_pictures(40)
    universal_robustness(
        classifier, some, some, norm="linf", seed=0, rate=rate, number=number, probes=probes
    )
