"""A few test pictures for people: clean, perturbed, rectified, and what was removed."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from prn_guard.files import write_whole
from prn_guard.nn.guarded import GuardedClassifier
from training.checkpoint import save_tensors
from training.datasets import Pictures
from training.evaluation.outcomes import as_delivered

EXAMPLES = "examples.safetensors"
PICTURES = "pictures"
SHOWN = 6


@torch.no_grad()
def write_examples(
    out: Path,
    guarded: GuardedClassifier,
    test: Pictures,
    unseen: Tensor,
    class_names: tuple[str, ...],
) -> None:
    """Write the first picture of each of a few classes, under the held-out perturbations in turn.

    Writes `examples.safetensors` (`clean`, `perturbed`, `rectified`, `clean_rectified` of shape
    `(S, C, H, W)` in [0, 1]; the held-out `perturbations`; labels true, bare, guarded; scores) and
    the clean and perturbed pictures as PNG.
    """
    positions = _first_of_each_class(test.labels)[:SHOWN]
    images = test.batch(positions)
    chosen = unseen[torch.arange(len(positions)) % len(unseen)].to(images.device)
    perturbed = torch.cat(
        [as_delivered(image[None], one) for image, one in zip(images, chosen, strict=True)]
    )
    output, clean_output = guarded(perturbed), guarded(images)
    save_tensors(
        out / EXAMPLES,
        {
            "clean": images,
            "perturbed": perturbed,
            "rectified": output.rectified,
            "clean_rectified": clean_output.rectified,
            "perturbations": unseen,
            "true_label": test.labels[positions],
            "clean_label": guarded.target(images).argmax(dim=1),
            "bare_label": guarded.target(perturbed).argmax(dim=1),
            "guarded_label": output.label,
            "clean_score": clean_output.score,
            "score": output.score,
        },
        {"class_names": list(class_names)},
    )
    for left_over in (out / PICTURES).glob("[0-9]*-*.png"):
        if left_over.stem.endswith(("-clean", "-perturbed")):
            left_over.unlink()
    for number, position in enumerate(positions.tolist()):
        name = _file_name(class_names[int(test.labels[position])])
        _write_png(out / PICTURES / f"{number}-{name}-clean.png", images[number])
        _write_png(out / PICTURES / f"{number}-{name}-perturbed.png", perturbed[number])


def _first_of_each_class(labels: Tensor) -> Tensor:
    first: dict[int, int] = {}
    for position, label in enumerate(labels.tolist()):
        first.setdefault(label, position)
    return torch.tensor([first[label] for label in sorted(first)])


def _file_name(class_name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in class_name.lower())


def _write_png(path: Path, image: Tensor) -> None:
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    write_whole(path, lambda partial: picture.save(partial, format="PNG"))
