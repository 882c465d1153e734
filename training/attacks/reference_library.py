"""The Adversarial Robustness Toolbox (`art`, Nicolae et al. 2018), seen from this project.

It draws from global generators, sets modes, and sends gradients into weights; here a classifier is
shown to it so that nothing of that is left behind.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from training.attacks.fooling import Classifier


def library() -> Any:
    """The library's module of estimators; imported when it is asked for, as that takes seconds.

    Raises:
        InvalidArgumentError: it is not installed.
    """
    try:
        from art.estimators import classification
    except ImportError as error:
        raise InvalidArgumentError(
            "Per-image attacks need the Adversarial Robustness Toolbox, which is not installed: "
            "pip install 'prn-guard[reference-attacks]'."
        ) from error
    return classification


def estimator_for(classifier: Classifier, images: Tensor) -> Any:
    """The library's view of `classifier`, for pictures like `images` `(B, C, H, W)` on its device.

    Raises:
        InvalidArgumentError: the library is not installed.
    """
    with torch.no_grad():
        classes = classifier(images).shape[1]
    return library().PyTorchClassifier(
        model=_Opaque(classifier),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if images.device.type == "cuda" else "cpu",
    )


@final
class _Opaque(nn.Module):
    """Shows the library a classifier without its modules: no mode or weight of it is touched."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self._classify = (classifier,)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        (classifier,) = self._classify
        if not images.requires_grad:
            return classifier(images)
        return cast("Tensor", _ForThePictures.apply(images, classifier))


class _ForThePictures(torch.autograd.Function):
    """Logits whose gradient reaches the pictures only: `backward()` would add to the weights'."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, classifier: Classifier) -> Tensor:
        with torch.enable_grad():
            ctx.leaf = images.detach().requires_grad_()
            ctx.logits = classifier(ctx.leaf)
        return cast("Tensor", ctx.logits.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # Kept, because the library goes back once per class.
        (gradient,) = torch.autograd.grad(ctx.logits, ctx.leaf, gradients, retain_graph=True)
        return gradient, None


@contextlib.contextmanager
def seeded(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed the global generators, which the library draws from; put them back afterwards."""
    seed = int(torch.randint(2**31, (), generator=generator))
    numpys, pythons = np.random.get_state(), random.getstate()  # noqa: NPY002 - the library's own
    on_gpu = device.type == "cuda"
    chosen = torch.cuda.device(device) if on_gpu else contextlib.nullcontext()
    with chosen, torch.random.fork_rng(devices=[device] if on_gpu else []):
        # Not torch.manual_seed: it would reach all GPUs, also those not used here.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpys)  # noqa: NPY002
            random.setstate(pythons)
