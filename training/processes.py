"""Training by several processes at once, as `torchrun` starts them; one alone is the usual case.

Gradients are averaged by hand instead of by `DistributedDataParallel`: that one hooks into a
single backward pass through its own forward pass, and Jacobian penalties differentiate twice,
universal perturbations with respect to the input.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, final

import torch
from torch import Tensor, distributed

from prn_guard.errors import InvalidArgumentError, PrnGuardError

LONGEST_WAIT: Final = timedelta(hours=6)
"""The others wait while the leading process measures; by default torch gives up after minutes."""


@final
@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Args:
        rank: number of this one; that of rank 0 writes files and reports.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def check_batch(self, batch_size: int) -> None:
        """Refuse mini-batches that cannot be shared out evenly.

        Raises:
            InvalidArgumentError: `batch_size` is no multiple of the number of processes.
        """
        if batch_size % self.count:
            raise InvalidArgumentError(
                f"Mini-batches of {batch_size} cannot be shared out evenly among {self.count} "
                f"processes; start as many as share them out, or take mini-batches of a multiple "
                f"of {self.count}."
            )

    def own(self, batch: Tensor) -> Tensor:
        """This process's run of consecutive entries of a whole mini-batch `(B, ...)`."""
        share = len(batch) // self.count
        return batch[self.rank * share : (self.rank + 1) * share]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in place."""
        if self.count == 1:
            return
        for tensor in tensors:
            distributed.all_reduce(tensor)
            tensor.div_(self.count)

    def hear(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the leading process's, in place."""
        if self.count == 1:
            return
        for tensor in tensors:
            distributed.broadcast(tensor, 0)

    def leader_says(self, answer: bool) -> bool:
        """What the leading process answers, in every process."""
        if self.count == 1:
            return answer
        said = torch.tensor([float(answer and self.leads)])
        if distributed.get_backend() == "nccl":
            said = said.cuda()
        distributed.broadcast(said, 0)
        return bool(said.item())

    def lead(self, work: Callable[[], None]) -> None:
        """Have the leading process do `work` while the others wait.

        Raises:
            PrnGuardError: `work` raised it; in the other processes an `InvalidArgumentError` that
                says so.
        """
        refusal: PrnGuardError | None = None
        if self.leads:
            try:
                work()
            except PrnGuardError as error:
                refusal = error
        if self.leader_says(refusal is not None):
            raise refusal or InvalidArgumentError("Refused by the leading process; see there.")

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.count > 1:
            distributed.barrier()


def leads() -> bool:
    """Whether this is the process that reports."""
    return os.environ.get("RANK", "0") == "0"


def started() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """The processes that `torchrun` started, connected while the block runs; else this one.

    Raises:
        InvalidArgumentError: more processes than GPUs.
    """
    count = started()
    if count == 1:
        yield Processes()
        return
    if device.type == "cuda":
        place, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= found:
            raise InvalidArgumentError(
                f"torchrun started process {place + 1} on a machine with {found} GPUs. Give at "
                f"most --nproc-per-node {found}."
            )
        torch.cuda.set_device(place)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
