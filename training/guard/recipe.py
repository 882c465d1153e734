"""How long and how fast a rectifier is trained, and on what: the paper's recipe and ours.

Source: PRN paper, section 4.1: Adam with betas (0.9, 0.999), whose rate of 0.01 falls by 10 % after
each 1,000 iterations; mini-batches of 64; at least five epochs; half of the samples perturbed.

Departures, of the recipe `default` alone: the rate rises over the first 100 iterations and then
falls to 0 along half a cosine; mini-batches are of 128; gradients are clipped; pictures are
mirrored at random; the bank's perturbations are augmented (`training.guard.augmentation`); the
rectified picture is drawn towards the clean one; a linear detector is trained at the same time
(`training.guard.joint_detector`); part of each mini-batch is under perturbations that are moved
against rectifier or detector (`training.guard.held_perturbations`); rounds follow in which the
whole guard is attacked and trained on what was found (`training.guard.alternation`).
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from prn_guard.errors import InvalidArgumentError

RecipeName = Literal["default", "paper"]
Precision = Literal["float32", "bfloat16"]
PERTURBED_SHARE: Final = 0.5
"""Of what rectifier and detector are trained on, as in the paper."""
ITERATIONS_PER_DECAY: Final = 1000
WARM_UP_ITERATIONS: Final = 100
LONGEST_WARM_UP: Final = 0.1
"""Share of a training that is shorter than ten times the usual warm-up."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a rectifier is trained.

    Args:
        epochs: passes over the pictures.
        learning_rate: the highest.
        decay: the rate is multiplied by this after each 1,000 iterations; None lets it rise over
            the first 100 iterations and then fall to 0 along half a cosine.
        batch_size: pictures per iteration, of all processes together.
        perturbed_share: probability that a picture is perturbed.
        mirrored: flip half of the pictures horizontally. What is learned is the target's own label
            of the flipped picture, so that no label is needed.
        augmented: vary the perturbations.
        clean_divergence: weight of the divergence from the target's clean logits.
        pixels: weight of the squared distance of rectified pictures from the clean ones.
        detection: weight of the loss of a detector that is trained together with the rectifier; 0
            trains none.
        adversarial_share: of each mini-batch that is under perturbations aimed at the guard: held
            ones at first, found ones in the rounds.
        rounds: at most so many of attacking the guard and training on what was found.
        round_iterations: of training in each round.
        attack_steps: of each attack of a round, on average.
        largest_gradient: gradients are clipped to this l2 norm; None leaves them.
        precision: that rectifier and target are run in; loss and weights are in float32.
        checkpoint_every: iterations.

    Raises:
        InvalidArgumentError: a value outside its range.
    """

    epochs: float
    learning_rate: float
    decay: float | None = None
    batch_size: int = 64
    perturbed_share: float = PERTURBED_SHARE
    mirrored: bool = False
    augmented: bool = False
    clean_divergence: float = 0.0
    pixels: float = 0.0
    detection: float = 0.0
    adversarial_share: float = 0.0
    rounds: int = 0
    round_iterations: int = 80
    attack_steps: int = 100
    largest_gradient: float | None = None
    precision: Precision = "float32"
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name, lowest in (
            *(("clean_divergence", 0.0), ("pixels", 0.0), ("detection", 0.0), ("rounds", 0)),
            *(("batch_size", 1), ("checkpoint_every", 1)),
            *(("round_iterations", 1), ("attack_steps", 1)),
        ):
            if not lowest <= getattr(self, name) < math.inf:
                raise InvalidArgumentError(
                    f"{name} is {getattr(self, name)}; expected {lowest:g} or more."
                )
        for name in ("epochs", "learning_rate", "decay", "largest_gradient"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidArgumentError(f"{name} is {value}; expected above 0.")
        for name in ("perturbed_share", "adversarial_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)}; expected 0 to 1.")
        self._check_choices()

    def _check_choices(self) -> None:
        if self.precision not in get_args(Precision):
            raise InvalidArgumentError(
                f"precision is {self.precision!r}; expected {' or '.join(get_args(Precision))}."
            )
        if self.rounds and not self.detection:
            raise InvalidArgumentError(
                f"rounds is {self.rounds} and detection is 0; expected a detector that is trained "
                "together with the rectifier, because the rounds attack both."
            )

    def rate(self, iteration: int, iterations: int) -> float:
        """The learning rate of one iteration, counted from 0, of so many."""
        if self.decay is not None:
            return self.learning_rate * self.decay ** (iteration // ITERATIONS_PER_DECAY)
        warm_up = min(WARM_UP_ITERATIONS, int(LONGEST_WARM_UP * iterations))
        if iteration < warm_up:
            return self.learning_rate * (iteration + 1) / (warm_up + 1)
        progress = (iteration - warm_up) / (iterations - warm_up)
        return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2


RECIPES: Final[dict[RecipeName, Recipe]] = {
    "default": Recipe(
        epochs=7,
        learning_rate=0.004,
        batch_size=128,
        mirrored=True,
        augmented=True,
        pixels=10000.0,
        detection=1.0,
        adversarial_share=0.5,
        rounds=9,
        largest_gradient=1.0,
    ),
    "paper": Recipe(epochs=5, learning_rate=0.01, decay=0.9),
}


def recipe_named(
    name: RecipeName, *, epochs: float | None = None, precision: Precision = "float32"
) -> Recipe:
    """The recipe of that name, for as long as told.

    Args:
        name: one of `RECIPES`.
        epochs: None takes the recipe's own.
        precision: that rectifier and target are run in.

    Raises:
        InvalidArgumentError: an unknown name or precision, or `epochs` not above 0.
    """
    if name not in RECIPES:
        raise InvalidArgumentError(f"recipe is {name!r}; expected one of {', '.join(RECIPES)}.")
    recipe = replace(RECIPES[name], precision=precision)
    return recipe if epochs is None else replace(recipe, epochs=epochs)
