"""Which training pictures serve which part of a fit; no part sees another's."""

from dataclasses import dataclass

import torch

from prn_guard.errors import DataError
from training.datasets import Pictures, Subset
from training.randomness import generator_for

SHARES = {"judging": 0.10, "detector": 0.15, "calibration": 0.15}
LARGEST = 6000
FEWEST_PICTURES = 100


@dataclass(frozen=True)
class Splits:
    """Disjoint parts of the training pictures."""

    rectifier: Pictures
    """To craft perturbations from and to train the rectifier on."""
    judging: Pictures
    """To decide which perturbations join the bank."""
    detector: Pictures
    """To fit the SVM on; the rectifier has not seen them."""
    calibration: Pictures
    """To set the threshold on."""


def split_pictures(pictures: Pictures, *, seed: int) -> Splits:
    """Split at random: 10 % for judging, 15 % each for detector and calibration, at most 6,000.

    Raises:
        DataError: fewer than 100 pictures.
    """
    if len(pictures) < FEWEST_PICTURES:
        raise DataError(
            f"There are {len(pictures)} training pictures; at least {FEWEST_PICTURES} are needed "
            "to craft, judge, train and calibrate on separate ones. Give more pictures."
        )
    order = torch.randperm(len(pictures), generator=generator_for(seed, "splits"))
    parts: dict[str, Pictures] = {}
    begin = 0
    for name, share in SHARES.items():
        size = min(int(share * len(pictures)), LARGEST)
        parts[name] = Subset(pictures, order[begin : begin + size])
        begin += size
    return Splits(rectifier=Subset(pictures, order[begin:]), **parts)
