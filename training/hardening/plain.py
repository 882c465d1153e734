"""Fine-tuning on clean pictures alone: the row that every other method is compared with."""

from torch.nn import functional as F

from training.hardening.job import HardeningJob, Method
from training.hardening.recipe import Recipe
from training.hardening.trainer import Trainer


def fine_tune(trainer: Trainer) -> None:
    """Minimise the cross-entropy on clean pictures."""
    for images, labels in trainer.minibatches():
        trainer.descend(F.cross_entropy(trainer.logits(images), labels))


def _harden(job: HardeningJob) -> None:
    fine_tune(job.trainer)


PLAIN = Method(
    summary="clean pictures alone, to compare with",
    harden=_harden,
    recipe=Recipe(epochs=20, batch_size=128, learning_rate=0.01, drops=(0.5, 0.75)),
    source="SGD with momentum as the UAT paper, section 4, from a tenth of its first rate",
)
