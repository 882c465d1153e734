"""The tiny target as an attack's subject, with pictures of which it gets a tenth wrong."""

from typing import Any

from tests.training.small import pictures, trained_target
from tests.training.tiny_guard import partly_mislabelled
from training.attacks.subject import Subject


def tiny_subject(*, crafting: int = 60, **changes: Any) -> Subject:
    """So many pictures to craft on; other fields are changed as told."""
    target = trained_target()
    fields: dict[str, Any] = {
        "attacked": target,
        "deployed": target,
        "crafting": partly_mislabelled(pictures(crafting, seed=4)),
        "judging": partly_mislabelled(pictures(61, seed=5)),
        "identity": "tiny",
    }
    return Subject(**(fields | changes))
