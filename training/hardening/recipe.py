"""How a network is fine-tuned: optimiser, rates and lengths."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from prn_guard.errors import InvalidArgumentError

Augmentation = Literal["none", "flip", "crop-flip"]
Optimizer = Literal["sgd", "adam"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Rates and lengths of a training.

    Args:
        optimizer: SGD with momentum, or Adam with betas (0.9, 0.999).
        epochs: passes over the pictures.
        batch_size: pictures per step, of all processes together.
        learning_rate: at the beginning.
        drops: shares of the training, in (0, 1), after each of which the rate falls tenfold.
        momentum: of SGD.
        weight_decay: of all weights.
        largest_gradient: gradients are clipped to this l2 norm; None leaves them.
        augmentation: what is done to training pictures.
        patience: epochs without a better validation after which the training ends.

    Raises:
        InvalidArgumentError: a value outside its range.
    """

    optimizer: Optimizer = "sgd"
    epochs: int
    batch_size: int
    learning_rate: float
    drops: tuple[float, ...] = ()
    momentum: float = 0.9
    weight_decay: float = 0.0
    largest_gradient: float | None = None
    augmentation: Augmentation = "none"
    patience: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)}; expected 1 or more.")
        if not 0 < self.learning_rate < float("inf"):
            raise InvalidArgumentError(f"learning_rate is {self.learning_rate}; expected above 0.")
        if not 0 <= self.momentum < 1:
            raise InvalidArgumentError(f"momentum is {self.momentum}; expected 0 or more, below 1.")
        if not 0 <= self.weight_decay < float("inf"):
            raise InvalidArgumentError(f"weight_decay is {self.weight_decay}; expected 0 or more.")
        if self.largest_gradient is not None and not self.largest_gradient > 0:
            raise InvalidArgumentError(
                f"largest_gradient is {self.largest_gradient}; expected above 0, or None to leave "
                "gradients as they are."
            )
        for name, kind in (("optimizer", Optimizer), ("augmentation", Augmentation)):
            if getattr(self, name) not in get_args(kind):
                raise InvalidArgumentError(
                    f"{name} is {getattr(self, name)!r}; expected one of "
                    f"{', '.join(get_args(kind))}."
                )
        if any(not 0 < drop < 1 for drop in self.drops):
            raise InvalidArgumentError(
                f"drops is {self.drops}; expected shares of the training, between 0 and 1."
            )

    def rate(self, progress: float) -> float:
        """The learning rate when the share `progress` in [0, 1) of the training is done."""
        return self.learning_rate * 0.1 ** sum(progress >= drop for drop in self.drops)

    def may_stop(self, epoch: int, kept: int) -> bool:
        """Whether to end after `epoch`, `kept` being the best yet; never before the last drop."""
        return epoch >= max(self.drops, default=0) * self.epochs and epoch - kept >= self.patience

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of those weights of `network` that may change."""
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        if self.optimizer == "adam":
            return torch.optim.Adam(weights, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            weights,
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
