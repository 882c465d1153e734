"""The joint loss of an attacker who fools the target and stays unflagged.

Source: Carlini and Wagner 2017, "Adversarial Examples Are Not Easily Detected: Bypassing Ten
Detection Methods", section 2.2 and after: one loss for classifier and detector together. The bare
target's loss is ascended while a softplus of the score's excess over the threshold is subtracted;
what is not flagged is not rectified.

Departures: universal; a softplus, where the source adds the detector as one more class, because the
guard's detector answers with a score and not with logits.
"""

from torch import Tensor
from torch.nn import functional as F

from prn_guard.nn.guarded import GuardedClassifier
from training.attacks.norms import perturb
from training.attacks.objectives import Objective
from training.guard.recipe import Precision
from training.guard.surrogates import excess, in_precision


def evading(
    objective: Objective,
    guarded: GuardedClassifier,
    *,
    weight: float,
    precision: Precision = "float32",
) -> Objective:
    """`objective` less `weight` times the mean softplus of the excess scores, per perturbation.

    Args:
        objective: what is ascended besides.
        guarded: whose detector must not flag.
        weight: of one unit of score above the threshold, beside a mean loss of at most 9.
        precision: that the rectifier computes in.
    """
    over = in_precision(lambda seen: excess(guarded, seen, guarded.rectifier(seen)), precision)

    def joint(images: Tensor, positions: Tensor, perturbations: Tensor) -> Tensor:
        seen = perturb(images, perturbations[:, None])
        flags = F.softplus(over(seen.flatten(0, 1))).reshape(seen.shape[:2]).mean(dim=1)
        return objective(images, positions, perturbations) - weight * flags

    return joint
