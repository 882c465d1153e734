"""The peer of `attack_speed`: the Adversarial Robustness Toolbox, watched while it attacks."""

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import UniversalPerturbation
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor

from prn_guard.nn.target import Target
from training.datasets import Pictures


class ReachedError(Exception):
    """The attack was stopped."""


class Watched(PyTorchClassifier):  # type: ignore[misc] # the toolbox has no types
    """The toolbox's wrapper, which shows every perturbation that its attack asks about."""

    over: Callable[[Tensor], bool] = staticmethod(lambda _: False)

    def predict(self, x: NDArray[np.float32], *args: Any, **options: Any) -> Any:
        """Answer as the toolbox does, after a look at the perturbation."""
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - its loop has no callback
        while frame is not None and "rnd_idx" not in frame.f_locals:
            frame = frame.f_back
        if frame is not None and self.over(torch.from_numpy(frame.f_locals["noise"][0])):
            raise ReachedError
        return super().predict(x, *args, **options)


def universal_perturbation(
    target: Target,
    crafting: Pictures,
    seed: int,
    over: Callable[[Tensor], bool],
    *,
    epsilon: float = 10 / 255,
) -> object:
    """Run `UniversalPerturbation` with its default, DeepFool, until `over`, in linf."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what the toolbox draws from
    wrapped = Watched(
        model=target,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=crafting.shape,
        nb_classes=len(crafting.class_names),
        clip_values=(0.0, 1.0),
        device_type="gpu" if crafting.device.type == "cuda" else "cpu",
    )
    wrapped.over = over  # type: ignore[method-assign]
    attack = UniversalPerturbation(
        wrapped, attacker="deepfool", attacker_params={"verbose": False}, delta=0.0, max_iter=1000,
        eps=epsilon, norm=np.inf, verbose=False,
    )  # fmt: skip
    images = crafting.batch(torch.arange(len(crafting))).cpu().numpy()
    try:
        return attack.generate(images)
    except ReachedError:
        return None
