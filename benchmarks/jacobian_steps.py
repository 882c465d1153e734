"""One training step under a Jacobian penalty, as our trainer takes it and as its peer is used.

Both minimise `cross-entropy + lambda / 2 * mean ||J||_F^2` by SGD with momentum, on the same
network in the same memory layout. The trainer's Jacobian is that of the network as deployed. Where
batch statistics tell training from deployment, the peer can be used in three ways, none of which is
the one to compare with: one pass in evaluation mode, which trains no batch statistics; one pass in
training mode, as its authors' example does, where the Jacobian of a picture is mixed with that of
its neighbours; and two passes, one in each mode, which compute what the trainer computes.
"""

from collections.abc import Callable
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.classifiers import resnet20
from benchmarks.jacobian_peer import EXACT, Peer
from prn_guard.nn.target import Target
from training.attacks.subject import for_attacks
from training.datasets import ArrayPictures
from training.demo.lenet import lenet
from training.hardening.jacobian import penalty_along
from training.hardening.recipe import Recipe
from training.hardening.trainer import Trainer

WEIGHT: Final = 0.05
RECIPE: Final = Recipe(epochs=1, batch_size=1, learning_rate=1e-6)
"""A rate so small that the network stays what it is."""

Passes = Literal["evaluation", "training", "both"]
Step = Callable[[], None]


def network(name: str) -> Target:
    """The classifier of that name, laid out as `harden` does; LeNet has random weights."""
    torch.manual_seed(0)
    return for_attacks({"LeNet": lenet, "ResNet-20": resnet20}[name](), torch.device("cpu"))


def batch(target: Target, count: int) -> tuple[Tensor, Tensor]:
    """Pictures of uniform noise `(count, C, H, W)` in [0, 1] and labels `(count,)`."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, *target.spec.shape, generator=generator)
    return images, torch.randint(10, (count,), generator=generator)


def our_step(
    target: Target, images: Tensor, labels: Tensor, *, projections: int, micro_batch: int | None
) -> Step:
    """A step of `harden --method jacobian`; 0 projections are exact."""
    pictures = ArrayPictures(
        (images * 255).to(torch.uint8), labels, tuple(str(label) for label in range(10))
    )
    trainer = Trainer(target, pictures, recipe=RECIPE, seed=0, micro_batch=micro_batch)
    target.classifier.train()

    def step() -> None:
        trainer.descend_penalised(
            images,
            labels,
            images,
            penalty_along(trainer, projections),
            lambda total, count: WEIGHT / 2 * total / count,
        )

    return step


def peer_step(
    target: Target,
    images: Tensor,
    labels: Tensor,
    *,
    peer: Peer,
    projections: int,
    passes: Passes,
) -> Step:
    """A step with the peer's regulariser; 0 projections are exact."""
    regularise = peer.build(projections or EXACT)
    target.classifier.requires_grad_()
    optimizer = RECIPE.build(target.classifier)

    def step() -> None:
        optimizer.zero_grad()
        watched = images.detach().requires_grad_()
        target.classifier.train(passes == "training")
        logits = target(watched)
        penalty = WEIGHT * regularise(watched, logits)
        if passes == "both":
            # At once: the next pass changes the batch statistics that its gradient goes through.
            penalty.backward()  # type: ignore[no-untyped-call]
            target.classifier.train()
            loss = F.cross_entropy(target(images), labels)
        else:
            loss = F.cross_entropy(logits, labels) + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def gradient(network: nn.Module) -> Tensor:
    """The gradient that a step left in the weights, as one vector."""
    return torch.cat(
        [weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]
    )
