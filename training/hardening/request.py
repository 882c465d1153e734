"""What a hardening is asked for."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final, final

from prn_guard.errors import DataError, InvalidArgumentError, TargetError
from prn_guard.version import __version__
from training.attacks.norms import Norm, check_ball
from training.datasets import NamedPictures, check_same_classes, digest_of
from training.hardening.job import MethodOptions
from training.hardening.recipe import Recipe
from training.hardening.registry import check_request, method
from training.targets import LoadedTarget

VALIDATION_SHARE: Final = 0.1
VALIDATION_PICTURES: Final = 2000


def validation_count(pictures: int) -> int:
    """How many of so many training pictures are kept apart to validate on."""
    return min(VALIDATION_PICTURES, max(1, round(VALIDATION_SHARE * pictures)))


@final
@dataclass(frozen=True, kw_only=True)
class HardeningRequest:
    """One hardening: a target, pictures, a method.

    Args:
        loaded: the classifier; its weights are changed in place.
        training: pictures to train and validate on.
        test: pictures for the figures in the record; nothing is chosen by them. None reports none.
        method: name of a registered method.
        norm: of the ball of universal perturbations to harden against.
        epsilon: its radius on [0, 1] pixels.
        recipe: rates and lengths.
        options: of the method.
        seed: of every random choice.
        micro_batch: pictures whose penalty is computed at once; None takes a whole mini-batch.
        mixed_precision: compute cross-entropies in bfloat16.
        device: name of where it is computed; bits differ between kinds of device.
        processes: how many train together.

    Raises:
        InvalidArgumentError: a ball or options that make no sense.
        DataError: too few pictures, or training and test pictures have other classes.
        TargetError: the target is an ONNX file, whose weights are not changed.
    """

    loaded: LoadedTarget
    training: NamedPictures
    test: NamedPictures | None
    method: str
    norm: Norm
    epsilon: float
    recipe: Recipe
    options: MethodOptions = field(default_factory=MethodOptions)
    seed: int = 0
    micro_batch: int | None = None
    mixed_precision: bool = False
    device: str = "cpu"
    processes: int = 1

    def __post_init__(self) -> None:
        check_ball(self.norm, self.epsilon, self.training.pictures.shape)
        pictures = self.recipe.batch_size // self.processes
        check_request(self.method, self.options, pictures)
        left = len(self.training.pictures) - validation_count(len(self.training.pictures))
        if left < self.recipe.batch_size:
            raise DataError(
                f"There are {left} pictures to train on, fewer than one mini-batch of "
                f"{self.recipe.batch_size}. Give more pictures, or a smaller --batch-size."
            )
        if self.micro_batch is not None and self.micro_batch < 1:
            raise InvalidArgumentError(f"micro_batch is {self.micro_batch}; expected 1 or more.")
        if self.micro_batch is not None and "weight" not in method(self.method).takes:
            raise InvalidArgumentError(
                f"{self.method} has no penalty that micro_batch could part: leave it out."
            )
        if self.test is not None:
            check_same_classes(self.training.pictures.class_names, self.test.pictures.class_names)
        if self.loaded.onnx is not None:
            raise TargetError(
                f"The target {self.loaded.spec} is an ONNX file, which is deployed as it is; "
                "hardening changes weights. Give the network as path/to/file.py:factory with "
                "--weights, or leave it as it is and guard it: python -m training fit."
            )

    def fingerprint(self) -> dict[str, Any]:
        """All that the result depends on, as plain JSON values."""
        test = self.test
        return {
            "target": self.loaded.spec,
            "target weights": self.loaded.digest(),
            "images": self.training.spec,
            "pictures": digest_of(self.training.pictures),
            "test images": None if test is None else test.spec,
            "test pictures": None if test is None else digest_of(test.pictures),
            "prn-guard": __version__,
            "method": self.method,
            "norm": self.norm,
            "epsilon": self.epsilon,
            "seed": self.seed,
            "micro batch": self.micro_batch,
            "mixed precision": self.mixed_precision,
            "device": self.device,
            "processes": self.processes,
            **asdict(self.options),
            **asdict(self.recipe) | {"drops": list(self.recipe.drops)},
        }
