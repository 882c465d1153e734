"""Whether channels of perturbations stand in the other order, as a classifier sees it.

The numbers of a perturbation do not tell RGB from BGR; but one that was made for a classifier loses
strength when its channels are reversed, so that the reversed form of a mistaken one fools more.
"""

from typing import Final

import torch
from torch import Tensor

from prn_guard.errors import DataError
from training.attacks.fooling import Classifier, predict
from training.datasets import Pictures, even_positions, evenly_spaced

PICTURES: Final = 1000
MEMBERS: Final = 4
LEAST_DIFFERENCE: Final = 0.05
STANDARD_ERRORS: Final = 3.0
"""ResNet-20 and ResNet-56 on CIFAR-10 at linf 10/255: of published and crafted perturbations in the
right order, none gained more than 0.04 when reversed. Colored waves that were made for no
classifier gained up to 0.05 by luck, and up to 0.19 at 20/255: such have to state their order."""


def check_channel_order(classifier: Classifier, pictures: Pictures, perturbations: Tensor) -> None:
    """Refuse perturbations that fool clearly more with their channels reversed.

    It is for perturbations whose order nobody stated; who states it is believed. Weak mistakes
    pass: a perturbation of nearly the same pattern in all channels fools as much either way.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1], RGB, to logits.
        pictures: up to `PICTURES` of them are tried, evenly spaced.
        perturbations: `(P, C, H, W)` for pixels in [0, 1]; up to `MEMBERS` are tried, evenly
            spaced, and judged together. With another number of channels than 3 there is no order
            to mistake.

    Raises:
        DataError: the reversed form fools at least `LEAST_DIFFERENCE` more of the pictures, and
            `STANDARD_ERRORS` standard errors of the paired difference.
    """
    if perturbations.shape[1] != 3:
        return
    some = evenly_spaced(pictures, PICTURES)
    clean = predict(classifier, some)
    given = torch.zeros(len(some), dtype=torch.float64)
    reversed_too = torch.zeros_like(given)
    members = perturbations[even_positions(len(perturbations), MEMBERS)]
    for one in members:
        given += (predict(classifier, some, one) != clean) / len(members)
        reversed_too += (predict(classifier, some, one.flip(0)) != clean) / len(members)
    gain = reversed_too - given
    error = float(gain.std(correction=0)) / len(some) ** 0.5
    if float(gain.mean()) >= max(LEAST_DIFFERENCE, STANDARD_ERRORS * error):
        raise DataError(
            f"The perturbations seem to be BGR: they fool {float(given.mean()):.1%} of "
            f"{len(some)} pictures as they are and {float(reversed_too.mean()):.1%} with their "
            "channels reversed. State --perturbation-order bgr; or rgb, if they are RGB "
            "indeed."
        )
