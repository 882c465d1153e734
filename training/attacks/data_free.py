"""Data-free universal perturbations: overfire the layers of a network, with no picture at all.

Source: Mopuri, Ganeshan and Babu 2018, "Generalizable Data-free Objective for Crafting Universal
Adversarial Perturbations" (GD-UAP): ascend the sum over the layers of the logarithm of the l2 norm
of their activations, with nothing but the perturbation as input, or with inputs drawn with the
range of natural pictures beneath it.

Departures: all convolutions and linear layers are summed over, found by forward hooks and before
the non-linearity that follows, where the source names layers for every network and takes them
after it. The perturbation alone means on mid-gray, as the zero of the source's mean-subtracted
inputs is gray. The range prior draws pictures of one colour each, where the source draws noise
around a mean. Trials on ResNet-20 and CIFAR-10 chose both. Inputs stay in [0, 1]. The source halves
the perturbation whenever it has saturated, and ends by a set of pictures of its own; here the steps
of a `Schedule` shrink, and their number is fixed.
"""

from collections.abc import Sequence
from typing import Final, Literal, get_args

import torch
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from training.attacks.engine import OnStep, Schedule, climb, update_rule
from training.attacks.fooling import Classifier
from training.attacks.job import AttackJob, Method
from training.attacks.layers import recorded_outputs
from training.attacks.norms import Norm, check_ball, perturb, random_start
from training.datasets.fitting import Shape

Prior = Literal["none", "range"]

STEPS: Final = 60
RANGE_BATCH: Final = 4
"""Pictures per step under the range prior."""
WEIGHT_LAYERS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def data_free_uap(
    classifier: Classifier,
    shape: Shape,
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    device: torch.device | None = None,
    start: Tensor | None = None,
    prior: Prior = "range",
    steps: int = STEPS,
    on_step: OnStep | None = None,
) -> Tensor:
    """One universal perturbation `(C, H, W)` float32 with `norm <= epsilon`, on `device`.

    Args:
        classifier: a torch module that maps `(B, C, H, W)` in [0, 1] to logits.
        shape: `(C, H, W)` of the pictures that it takes: all that is known of them.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        generator: draws the start and the inputs.
        device: where the classifier is; None is the CPU.
        start: perturbation `(C, H, W)` to go on from; None draws one.
        prior: what lies beneath the perturbation: `none`, mid-gray; `range`, pictures of one
            colour each, drawn evenly from the range of pixels.
        steps: of the ascent.
        on_step: told of every step.

    Raises:
        InvalidArgumentError: a ball or a prior that makes no sense, fewer than one step, or a
            classifier that shows no convolution and no linear layer.
    """
    check_ball(norm, epsilon, shape)
    if prior not in get_args(Prior):
        raise InvalidArgumentError(f"prior is {prior!r}; expected 'none' or 'range'.")
    layers = weight_layers(classifier)
    update = update_rule("sign-pgd", norm=norm, epsilon=epsilon, schedule=Schedule(steps=steps))
    if start is None:
        start = random_start(shape, norm, epsilon, generator=generator)

    def gradient_at(leaf: Tensor, _: int) -> Tensor:
        inputs = _inputs(prior, shape[0], generator).to(leaf.device)
        energy = activation_energy(classifier, layers, perturb(inputs, leaf))
        return torch.autograd.grad(energy, leaf)[0]

    return climb(gradient_at, start.to(device), update=update, steps=steps, on_step=on_step)


def activation_energy(
    classifier: Classifier, layers: Sequence[nn.Module], images: Tensor
) -> Tensor:
    """The sum over all answers of `layers` to `images` of the logarithm of their l2 norm.

    An answer of nothing but zeros counts as one of norm 1e-12, and has no gradient.

    Raises:
        InvalidArgumentError: none of `layers` is called.
    """
    with recorded_outputs(layers) as outputs:
        classifier(images)
    if not outputs:
        raise InvalidArgumentError(_UNSEEN.format(type(classifier).__name__))
    return torch.stack([output.norm().clamp(min=1e-12).log() for output in outputs]).sum()


def weight_layers(classifier: Classifier) -> list[nn.Module]:
    """The convolutions and linear layers of `classifier`.

    Raises:
        InvalidArgumentError: there are none to be seen.
    """
    modules = classifier.modules() if isinstance(classifier, nn.Module) else ()
    layers: list[nn.Module] = [one for one in modules if isinstance(one, WEIGHT_LAYERS)]
    if not layers:
        raise InvalidArgumentError(_UNSEEN.format(type(classifier).__name__))
    return layers


_UNSEEN: Final = (
    "The classifier is a {} that shows no convolution and no linear layer, whose activations this "
    "attack would raise. Give a torch module made of nn.Conv2d and nn.Linear, or choose an attack "
    "that needs only logits."
)


def _inputs(prior: Prior, channels: int, generator: torch.Generator) -> Tensor:
    if prior == "none":
        return torch.full((1, channels, 1, 1), 0.5)
    return torch.rand(RANGE_BATCH, channels, 1, 1, generator=generator)


def _craft(job: AttackJob) -> Tensor:
    return data_free_uap(
        job.classifier,
        job.pictures.shape,
        norm=job.norm,
        epsilon=job.epsilon,
        generator=job.generator,
        device=job.pictures.device,
        start=job.start,
        steps=STEPS if job.steps is None else job.steps,
        on_step=job.on_step,
    )


DATA_FREE = Method(
    summary="overfires the layers of the network, and sees no picture",
    family="data-free",
    craft=_craft,
    takes=frozenset({"start", "steps"}),
)
