"""What a command attacks, and on which pictures: crafting ones, and others to judge by."""

from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

from prn_guard.errors import DataError
from prn_guard.nn.target import Target
from training.attacks.fooling import Classifier, predict
from training.datasets import Pictures, Subset, digest_of, evenly_spaced, held_in_memory
from training.randomness import generator_for

CRAFTING_PICTURES: Final = 5000
JUDGING_PICTURES: Final = 10_000


@final
@dataclass(frozen=True, kw_only=True)
class Subject:
    """A classifier under attack.

    Args:
        attacked: what perturbations are crafted through; differentiable.
        deployed: what answers in the end, and is judged. For a guard it differs from `attacked`:
            its gate cannot be differentiated.
        crafting: pictures to craft on.
        judging: other pictures, to measure on.
        identity: what tells this classifier from another, as a digest.
    """

    attacked: Classifier
    deployed: Classifier
    crafting: Pictures
    judging: Pictures
    identity: str

    def clean_predictions(self) -> Tensor:
        """Labels `(N,)` that the deployed classifier gives the judging pictures."""
        return predict(self.deployed, self.judging)

    def facts(self) -> dict[str, Any]:
        """What results about it depend on, as plain JSON values."""
        return {
            "classifier": self.identity,
            "crafting pictures": digest_of(self.crafting),
            "judging pictures": digest_of(self.judging),
        }


def for_attacks(target: Target, device: torch.device) -> Target:
    """The target on `device`, laid out channels last where its network can be.

    Its answers are the same up to the order of summation, and gradients come faster: on one thread
    EfficientNet-Lite0 took 34 pictures a second where it took 21, ResNet-20 612 where 568. A
    network that takes views of its features, as `x.view(len(x), -1)` does, stays as it is.
    """
    target.to(device).to(memory_format=torch.channels_last)
    probe = torch.full((2, *target.spec.shape), 0.5, device=device)
    try:
        with torch.no_grad():
            target(probe.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        target.to(memory_format=torch.contiguous_format)
    return target


def parted(
    pictures: Pictures, others: Pictures | None, *, seed: int, device: torch.device
) -> tuple[Pictures, Pictures]:
    """Crafting and judging pictures, held on `device`.

    At most 5,000 pictures, drawn at random, are crafted on. Judged is on at most 10,000 of
    `others`; without them, `pictures` are parted, at most half of them to craft on.

    Raises:
        DataError: fewer than two pictures to part.
    """
    order = torch.randperm(len(pictures), generator=generator_for(seed, "attack split"))
    if others is None:
        if len(pictures) < 2:
            raise DataError("An attack needs pictures to craft on and others to judge by; got one.")
        crafting = order[: min(CRAFTING_PICTURES, len(order) // 2)]
        judging = Subset(pictures, order[len(crafting) :][:JUDGING_PICTURES])
    else:
        crafting = order[:CRAFTING_PICTURES]
        judging = evenly_spaced(others, JUDGING_PICTURES)
    return (
        held_in_memory(Subset(pictures, crafting), device=device),
        held_in_memory(judging, device=device),
    )
