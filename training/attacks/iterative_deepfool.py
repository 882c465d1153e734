"""Iterative DeepFool universal perturbations.

Source: Moosavi-Dezfooli et al. 2017, "Universal adversarial perturbations", Algorithm 1 (also
printed as Algorithm 1 of the UAT paper, where the `if` has its sign wrong: the step is for
pictures that are *not* fooled yet).

Departures:
    - A picture counts as fooled, and is left alone, once another class leads by `MARGIN` logits;
      in the source as soon as the label changes. Barely fooled pictures are won back by the next
      steps of others.
    - Each picture's step is that of one linearisation; the next visit linearises anew, under
      another perturbation.
    - The summed step of chunk number k counts `fading / (fading + k)`, fully at first; in the
      source always fully, so that the rate swings from chunk to chunk.
    - Pictures are taken in small chunks. Within a chunk the steps start from the same perturbation
      and are added up before the projection, so that they are computed as one batch; the source
      recomputes after every picture, and so does `chunk=1`. Fooling did not suffer.
    - Perturbed pictures are kept in [0, 1] before a step is sought, as a deployed classifier
      receives them.
    - Fooling swings from pass to pass, so the best pass is returned, not the last.
"""

from functools import partial

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.deepfool import deepfool_steps
from training.attacks.engine import OnStep, Until
from training.attacks.fooling import Classifier, fooling_rate, predict
from training.attacks.job import AttackJob, Method
from training.attacks.losses import lead_over
from training.attacks.norms import Norm, check_ball, perturb, project
from training.datasets import Pictures, batch_for

PASSES = 4
LARGEST_CHUNK = 64
MARGIN = 10.0
FADING = 30.0


def iterative_deepfool_uap(
    classifier: Classifier,
    pictures: Pictures,
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    start: Tensor | None = None,
    wished_fooling_rate: float = 0.8,
    max_passes: int = 10,
    chunk: int | None = None,
    margin: float = MARGIN,
    linearisations: int = 1,
    fading: float = FADING,
    until: Until | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """One universal perturbation `(C, H, W)` float32 with `norm <= epsilon`.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits.
        pictures: the crafting set; passes stop when the wish is met on it.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        generator: shuffles the pictures before each pass.
        start: perturbation `(C, H, W)` to go on from; None is zero, as in the source.
        wished_fooling_rate: in (0, 1]; reaching it on the crafting set ends the passes.
        max_passes: the search ends after this many passes in any case.
        chunk: pictures per batch of DeepFool steps; None takes 64, fewer big ones.
        margin: logits by which another class has to lead; 0 in the source.
        linearisations: DeepFool iterations of a picture per visit; some tens in the source.
        fading: after so many chunks a step counts by half; infinity in the source.
        until: asked about the perturbation, as `(1, C, H, W)`, after every chunk; true ends the
            attack with this perturbation.
        on_step: told of every chunk.

    Raises:
        InvalidArgumentError: a ball that makes no sense, or a wish outside (0, 1].
    """
    check_ball(norm, epsilon, pictures.shape)
    if not 0 < wished_fooling_rate <= 1:
        raise InvalidArgumentError(
            f"wished_fooling_rate is {wished_fooling_rate}; expected above 0 and at most 1."
        )
    if chunk is None:
        chunk = batch_for(pictures.shape, LARGEST_CHUNK)
    if chunk < 1 or max_passes < 1 or not fading > 0:
        raise InvalidArgumentError(
            f"chunk is {chunk}, max_passes {max_passes} and fading {fading}; expected at least 1, "
            "1, and above 0."
        )
    clean = predict(classifier, pictures)
    begin = torch.zeros(pictures.shape) if start is None else project(start, norm, epsilon)
    perturbation = begin.to(pictures.device, copy=True)
    chunks_in_all = max_passes * -(-len(pictures) // chunk)
    best, best_rate = perturbation, 0.0
    done = 0
    search = partial(summed_step, margin=margin, linearisations=linearisations)
    for _ in range(max_passes):
        order = torch.randperm(len(pictures), generator=generator)
        for positions in torch.split(order, chunk):
            step = search(classifier, pictures.batch(positions), clean[positions], perturbation)
            weight = 1 / (1 + done / fading)
            perturbation = project(perturbation + weight * step, norm, epsilon)
            done += 1
            if on_step is not None:
                on_step(done, chunks_in_all)
            if until is not None and until(perturbation[None]):
                return perturbation
        rate = fooling_rate(clean, predict(classifier, pictures, perturbation))
        if rate >= best_rate:
            best, best_rate = perturbation, rate
        if rate >= wished_fooling_rate:
            break
    return best


def summed_step(
    classifier: Classifier,
    images: Tensor,
    clean: Tensor,
    perturbation: Tensor,
    *,
    margin: float,
    linearisations: int,
) -> Tensor:
    """Sum `(C, H, W)` of the DeepFool steps of those `images` that are not fooled yet.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits.
        images: `(B, C, H, W)`.
        clean: their clean predictions `(B,)`.
        perturbation: `(C, H, W)`, under which the steps are sought.
        margin: logits by which another class has to lead over the clean prediction.
        linearisations: DeepFool iterations of each picture.
    """
    seen, labels = perturb(images, perturbation), clean.to(images.device)
    with torch.no_grad():
        left = lead_over(classifier(seen), labels) <= margin
    if not bool(left.any()):
        return torch.zeros_like(perturbation)
    steps = deepfool_steps(
        classifier,
        seen[left],
        labels=labels[left],
        margin=margin,
        max_iterations=linearisations,
    )
    return steps.sum(dim=0)


def _craft(job: AttackJob) -> Tensor:
    return iterative_deepfool_uap(
        job.classifier,
        job.pictures,
        norm=job.norm,
        epsilon=job.epsilon,
        generator=job.generator,
        start=job.start,
        wished_fooling_rate=1.0,
        max_passes=PASSES if job.steps is None else job.steps,
        on_step=job.on_step,
    )


ITERATIVE_DEEPFOOL = Method(
    summary="sum of the DeepFool steps of picture after picture",
    family="DeepFool",
    craft=_craft,
    takes=frozenset({"start", "steps"}),
)
