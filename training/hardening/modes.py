"""Whether a network answers in training mode as it does when it is deployed."""

from typing import Final

import torch

from prn_guard.errors import TargetError
from prn_guard.nn.target import Target
from training.randomness import generator_for

PROBES: Final = 16


@torch.no_grad()
def modes_agree(target: Target) -> bool:
    """Whether the network answers in training mode as it does when deployed.

    Asked by trying, because dropout may be a function call that no module tells of; repeatedly,
    because whole layers may be dropped seldom; from a seed, to get the same answer when resumed.

    Raises:
        TargetError: it has no weights, or answers in training mode with something else than logits.
    """
    if not list(target.classifier.parameters()):
        raise TargetError("The classifier has no weights that could be trained.")
    buffers = {name: value.clone() for name, value in target.classifier.named_buffers()}
    device = next(target.parameters()).device
    probe = torch.rand((4, *target.spec.shape), generator=generator_for(0, "probe")).to(device)
    target.classifier.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        answers = [target(probe) for _ in range(PROBES)]
    if not isinstance(answers[0], torch.Tensor):
        raise TargetError(
            f"In training mode the classifier answers with {type(answers[0]).__name__}; expected "
            "logits alone. Build it without auxiliary heads (aux_logits=False)."
        )
    for name, value in target.classifier.named_buffers():
        value.copy_(buffers[name])
    target.classifier.eval()
    return all(torch.equal(answer, target(probe)) for answer in answers)
