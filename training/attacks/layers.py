"""Hidden layers of a classifier, found and read by forward hooks: its code is not needed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from training.attacks.fooling import Classifier


class FeatureMap(NamedTuple):
    """A layer whose output for one picture is `(1, channels, height, width)`."""

    layer: str
    """Its name in `named_modules` of the classifier."""
    channels: int
    height: int
    width: int


class _Reached(Exception):  # noqa: N818 - no error: it ends a pass early
    """The layer has answered; what comes after it need not be computed."""


@torch.no_grad()
def feature_maps(classifier: Classifier, picture: Tensor) -> list[FeatureMap]:
    """The layers inside `classifier` that answer `picture` with a feature map.

    Args:
        classifier: only a torch module shows its layers.
        picture: `(1, C, H, W)` float32 in [0, 1].

    Returns:
        In the order in which they answer first; a module that is called several times stands once.
        Empty for a plain callable.
    """
    found: dict[str, FeatureMap] = {}
    if not isinstance(classifier, nn.Module):
        return []

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and name not in found:
            found[name] = FeatureMap(name, *output.shape[1:])

    named = [(name, module) for name, module in classifier.named_modules() if name]
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in named
    ]
    try:
        classifier(picture)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def features_of(classifier: Classifier, layer: str | None, images: Tensor) -> Tensor:
    """What `layer` answers to `images` when it is first called; None stands for the logits.

    Nothing after the layer is computed.

    Raises:
        InvalidArgumentError: the classifier has no such layer, or it does not answer with one
            tensor.
    """
    if layer is None:
        return classifier(images)
    answers: list[object] = []

    def stop(_module: nn.Module, _inputs: object, output: object) -> None:
        # Cloned, because the next layer may overwrite its input in place, as ReLU(inplace=True).
        answers.append(output.clone() if isinstance(output, Tensor) else output)
        raise _Reached

    handle = _module_named(classifier, layer).register_forward_hook(stop)
    try:
        classifier(images)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not answers or not isinstance(answers[0], Tensor):
        raise InvalidArgumentError(
            f"layer {layer!r} does not answer with a tensor when the classifier runs; name another."
        )
    return answers[0]


@contextmanager
def recorded_outputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Inside, every answer of `modules` is appended to the list, in the order of the calls."""
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        # Cloned for the same reason as in `features_of`.
        outputs.append(output.clone())

    handles = [module.register_forward_hook(record) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _module_named(classifier: Classifier, layer: str) -> nn.Module:
    modules: dict[str, nn.Module] = {}
    if isinstance(classifier, nn.Module):
        modules.update(classifier.named_modules())
    modules.pop("", None)
    if layer not in modules:
        some = ", ".join(list(modules)[:8]) or "none, as it is no torch module"
        raise InvalidArgumentError(
            f"The classifier has no layer {layer!r}; take a name from its named_modules(), which "
            f"begin with: {some}."
        )
    return modules[layer]
