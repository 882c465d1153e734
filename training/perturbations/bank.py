"""The perturbation bank: diverse universal perturbations that all fool the target.

Source: PRN paper, section 5: 25 per norm, 20 to train and 5 drawn at random to be held out, each
with a fooling rate of at least 0.8 on pictures that were not used to craft it, pairwise |cosine|
at most 0.15.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from prn_guard.errors import ArtifactError, InvalidArgumentError
from training.attacks.norms import Norm
from training.checkpoint import load_tensors, save_tensors


@dataclass(frozen=True, kw_only=True)
class BankCriteria:
    """What a perturbation must meet to join the bank.

    Raises:
        InvalidArgumentError: all are to be held out, so that none is left to train on.
    """

    members: int = 25
    held_out: int = 5
    least_fooling: float = 0.8
    most_cosine: float = 0.15
    candidates_per_member: int = 6
    """How long the search goes on, however few were accepted."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < self.members:
            raise InvalidArgumentError(
                f"{self.held_out} of {self.members} perturbations are to be held out; expected "
                "fewer than all of them, so that some are left to train on."
            )

    @property
    def most_candidates(self) -> int:
        """The search ends after this many."""
        return self.candidates_per_member * self.members


@final
@dataclass(frozen=True)
class Bank:
    """Accepted perturbations with their measured figures."""

    perturbations: Tensor
    """`(P, C, H, W)` float32."""
    fooling_rates: tuple[float, ...]
    """Of each member, on pictures not used to craft it."""
    norm: Norm
    epsilon: float
    candidates: int
    rejected_fooling: int
    rejected_cosine: int
    relaxed: bool
    """True where too few candidates met the criteria, and the strongest of the others were kept."""
    held_out: int

    @property
    def training(self) -> Tensor:
        """The members that the guard may see."""
        return self.perturbations[: len(self.perturbations) - self.held_out]

    @property
    def unseen(self) -> Tensor:
        """The members held out for evaluation; nothing is fitted on them."""
        return self.perturbations[len(self.perturbations) - self.held_out :]

    def shuffled(self, generator: torch.Generator) -> "Bank":
        """The same members in random order, which decides who is held out."""
        order = torch.randperm(len(self.perturbations), generator=generator)
        rates = tuple(self.fooling_rates[index] for index in order.tolist())
        return replace(self, perturbations=self.perturbations[order], fooling_rates=rates)

    def summary(self) -> dict[str, Any]:
        """Everything but the tensors, as plain JSON values."""
        return {
            "norm": self.norm,
            "epsilon": self.epsilon,
            "members": len(self.perturbations),
            "held_out": self.held_out,
            "fooling_rates": list(self.fooling_rates),
            "candidates": self.candidates,
            "rejected_fooling": self.rejected_fooling,
            "rejected_cosine": self.rejected_cosine,
            "relaxed": self.relaxed,
            "largest_cosine": largest_cosine(self.perturbations),
        }

    def save(self, path: Path, *, request: Mapping[str, Any] | None = None) -> None:
        """Write the bank, and what was asked for, to a safetensors file, whole or not at all."""
        facts = {"bank": self.summary()} | ({} if request is None else {"request": request})
        save_tensors(path, {"perturbations": self.perturbations}, facts)

    @classmethod
    def load(cls, path: Path) -> "Bank":
        """Read a bank.

        Raises:
            ArtifactError: the file is missing, damaged or no bank.
        """
        tensors, metadata = load_tensors(path)
        try:
            kept: dict[str, Any] = dict(metadata["bank"])
            perturbations = tensors["perturbations"]
            del kept["members"], kept["largest_cosine"]
            rates = tuple(kept.pop("fooling_rates"))
            return cls(perturbations=perturbations, fooling_rates=rates, **kept)
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path} is no perturbation bank ({error}). Give the file that `fit` wrote."
            ) from error


def largest_cosine(perturbations: Tensor) -> float:
    """Largest |cosine| between any two of `perturbations` `(P, C, H, W)`; 0 for fewer than two."""
    if len(perturbations) < 2:
        return 0.0
    flat = torch.nn.functional.normalize(perturbations.flatten(1).double(), dim=1)
    cosines = (flat @ flat.T).abs()
    return float(cosines.fill_diagonal_(0).max())
