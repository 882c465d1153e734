"""What a fit is asked for, and the folder that belongs to that request alone."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, final

from pydantic import ValidationError

from prn_guard.errors import ArtifactError, DataError, InvalidArgumentError
from prn_guard.files import read_json
from prn_guard.nn.detector import DetectorSpec, FeatureForm, Kernel, detector_spec
from prn_guard.nn.rectifier import SMALL_PICTURE, RectifierSpec, default_spec
from prn_guard.version import __version__
from training.attacks.norms import Norm, check_ball
from training.datasets import (
    NamedPictures,
    check_other_pictures,
    check_same_classes,
    digest_of,
)
from training.guard import folder as layout
from training.guard.recipe import Precision, Recipe, RecipeName, recipe_named
from training.resuming import REQUEST, claim_folder
from training.targets import LoadedTarget

OURS: Final = frozenset(
    {
        layout.RECORD,
        layout.TARGET,
        layout.ONNX_TARGET,
        layout.BANK,
        layout.SYNTHETIC,
        layout.RECTIFIER,
        layout.FOUND,
        layout.DETECTOR,
        layout.STATE,
    }
)
BATCH_OF_LARGE_PICTURES: Final = 32
"""Of our recipe: a network's layers for 128 pictures of 224x224 take more memory than most have."""


@final
@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What a fit may be told beyond target, pictures and ball."""

    architecture: Literal["paper", "compact"] = "compact"
    factor: int | None = None
    width: int | None = None
    blocks: int | None = None
    levels: int | None = None
    """These four shape `compact`; None takes what goes with the size of the pictures."""
    recipe: RecipeName = "default"
    precision: Precision = "float32"
    """Both of the rectifier's training."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it is computed; bits differ between kinds of device."""
    processes: int = 1
    """How many train the rectifier together."""
    members: int = 25
    held_out: int = 5
    synthetic: int = 230
    epochs: float | None = None
    """Of the rectifier's training; None takes the recipe's own."""
    rounds: int | None = None
    """Of attacking the guard and training on what was found; None takes the recipe's own."""
    clean_divergence: float | None = None
    """Weight, in the loss, of the divergence from the target's clean logits; None takes the
    recipe's own."""
    pixels: float | None = None
    """Weight, in the loss, of the squared distance of rectified pictures from the clean ones; None
    takes the recipe's own."""
    detector: Literal["joint"] | Kernel | None = None
    """None takes the one that is trained together with the rectifier, else a linear SVM."""
    detector_features: FeatureForm | None = None
    """Of an SVM; None takes those that go with its kernel."""
    false_positive_rate: float = 0.01
    seed: int = 0
    resize: int | None = None
    limit: int | None = None
    data_folder: str | None = None
    """The last three say how the pictures were loaded, so that evaluation loads them alike."""


@final
@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """One fit: a target, pictures, a ball, options.

    Args:
        loaded: the classifier to defend; its weights and buffers are not touched.
        training: pictures to craft, train and calibrate on.
        test: pictures for the figures in the record; nothing is chosen by them.
        norm: of the ball of perturbations to defend against.
        epsilon: its radius on [0, 1] pixels.
        options: sizes, rates and seed.

    Raises:
        InvalidArgumentError: a ball or options that make no sense.
        DataError: training and test pictures have other classes, or are the same.
    """

    loaded: LoadedTarget
    training: NamedPictures
    test: NamedPictures
    norm: Norm
    epsilon: float
    options: FitOptions = field(default_factory=FitOptions)

    def __post_init__(self) -> None:
        check_ball(self.norm, self.epsilon, self.training.pictures.shape)
        # Asked here, so that a name or a number that makes no sense is refused before the work.
        self.recipe()
        self.rectifier()
        check_same_classes(self.training.pictures.class_names, self.test.pictures.class_names)
        check_other_pictures(
            digest_of(self.test.pictures),
            digest_of(self.training.pictures),
            "those that the guard is fitted on",
        )
        # Asked here: the detector is fitted last, and may refuse this combination.
        self.fitted_detector()
        if self.options.detector == "joint" and not self.recipe().detection:
            raise InvalidArgumentError(
                f"The recipe {self.options.recipe!r} trains no detector together with the "
                "rectifier; expected the detector 'linear' or 'rbf' with it."
            )
        is_fitted = self.options.detector in {"linear", "rbf"}
        if not is_fitted and self.recipe().detection and self.options.detector_features:
            raise InvalidArgumentError(
                f"The features {self.options.detector_features!r} were asked for, and the detector "
                "is the one that is trained together with the rectifier, on features of its own; "
                "expected the detector 'linear' or 'rbf' with them."
            )
        if not 0 < self.options.false_positive_rate < 1:
            raise InvalidArgumentError(
                f"The false-positive rate is {self.options.false_positive_rate}; expected between "
                "0 and 1."
            )
        if not 1 <= self.options.held_out < self.options.members:
            raise InvalidArgumentError(
                f"{self.options.held_out} of {self.options.members} perturbations are to be held "
                "out; expected at least 1, and at least 1 left to train on."
            )

    def recipe(self) -> Recipe:
        """How the rectifier is trained."""
        options = self.options
        recipe = recipe_named(options.recipe, epochs=options.epochs, precision=options.precision)
        if options.recipe == "default" and max(self.training.pictures.shape[1:]) > SMALL_PICTURE:
            recipe = replace(recipe, batch_size=BATCH_OF_LARGE_PICTURES)
        return replace(recipe, **self._given("rounds", "clean_divergence", "pixels"))

    def rectifier(self) -> RectifierSpec:
        """The rectifier to train, for pictures of the target's input.

        Raises:
            InvalidArgumentError: a shape was asked for that `compact` does not have, or for the
                paper's network, which has one alone.
        """
        spec, given = self.loaded.target.spec, self._given("factor", "width", "blocks", "levels")
        if self.options.architecture == "paper":
            if given:
                raise InvalidArgumentError(
                    f"{', '.join(given)} of the rectifier was given, and the architecture is "
                    "'paper', which has one shape; expected 'compact' with it."
                )
            return RectifierSpec(architecture="paper", channels=spec.channels)
        usual = default_spec(spec.channels, spec.height, spec.width)
        try:
            return RectifierSpec(**usual.model_dump() | given)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidArgumentError(
                f"The rectifier's {first['loc'][0]} is {first['input']!r}; {first['msg']}."
            ) from error

    def _given(self, *names: str) -> dict[str, Any]:
        """Those of the options that were not left to the recipe or to the size of the pictures."""
        asked = {name: getattr(self.options, name) for name in names}
        return {name: value for name, value in asked.items() if value is not None}

    def fitted_detector(self) -> DetectorSpec:
        """The SVM to fit to what the rectifier removes, where none is trained together with it."""
        asked = self.options.detector
        return detector_spec(
            *self.training.pictures.shape[1:],
            kernel="rbf" if asked == "rbf" else "linear",
            features=self.options.detector_features,
        )

    def fingerprint(self) -> dict[str, Any]:
        """All that the result depends on, as plain JSON values."""
        return {
            "target": self.loaded.spec,
            "target weights": self.loaded.digest(),
            "images": self.training.spec,
            "pictures": digest_of(self.training.pictures),
            "test images": self.test.spec,
            "test pictures": digest_of(self.test.pictures),
            "prn-guard": __version__,
            "norm": self.norm,
            "epsilon": self.epsilon,
            **asdict(self.options),
        }

    def claim(self, out: Path, *, restart: bool) -> None:
        """Take the folder for this request: a new one, or its own from before.

        Args:
            out: the folder.
            restart: throw away what an earlier fit, of whatever request, left there.

        Raises:
            InvalidArgumentError: the folder holds another fit, or other files.
        """
        claim_folder(out, self.fingerprint(), "fit", ours=OURS, restart=restart)


def fitted_pictures(folder: Path) -> str:
    """Digest of the training pictures that the guard of `folder` was fitted on, by `digest_of`.

    Raises:
        DataError: the folder does not say.
    """
    path = folder / REQUEST
    try:
        digest = read_json(path)["pictures"]
    except (ArtifactError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{path} is missing or damaged, so that the training pictures cannot be told from "
            "others. Restore it, or fit the guard anew."
        ) from error
    return str(digest)
