"""The pictures for people: what they show, and how they are written."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from prn_guard.nn.guarded import GuardedClassifier
from tests.tolerances import SCORE, assert_close
from tests.training.evaluation.conftest import Evaluation
from training.checkpoint import load_tensors
from training.datasets import ArrayPictures, Pictures
from training.evaluation.examples import write_examples
from training.evaluation.outcomes import answers
from training.guard.folder import load_bank


def test_the_tensors_are_what_target_and_guard_say(
    evaluation: Evaluation, guarded: GuardedClassifier, test_set: Pictures, guard_folder: Path
) -> None:
    shown, metadata = load_tensors(evaluation.out / "examples.safetensors")
    unseen = load_bank(guard_folder).unseen
    assert metadata["class_names"] == ["0", "1", "2"]
    assert torch.equal(shown["perturbations"], unseen)
    positions = [test_set.labels.tolist().index(label) for label in range(3)]
    assert shown["true_label"].tolist() == [0, 1, 2]
    assert torch.equal(shown["clean"], test_set.batch(torch.tensor(positions)))
    clean, under = answers(guarded, test_set), [answers(guarded, test_set, one) for one in unseen]
    for row, position in enumerate(positions):
        seen = under[row % 2]
        assert shown["clean_label"][row] == clean.bare[position]
        assert shown["bare_label"][row] == seen.bare[position]
        assert shown["guarded_label"][row] == seen.guarded[position]
        assert_close(shown["score"][row], seen.scores[position], SCORE)
        assert_close(shown["clean_score"][row], clean.scores[position], SCORE)
    with torch.no_grad():
        assert torch.equal(shown["rectified"], guarded.rectifier(shown["perturbed"]))
        assert torch.equal(shown["clean_rectified"], guarded.rectifier(shown["clean"]))


def test_the_pngs_hold_the_very_pixels(evaluation: Evaluation) -> None:
    shown, _ = load_tensors(evaluation.out / "examples.safetensors")
    folder = evaluation.out / "pictures"
    assert len(list(folder.iterdir())) == 6
    for row in range(3):
        for kind in ("clean", "perturbed"):
            with Image.open(folder / f"{row}-{row}-{kind}.png") as picture:
                assert (picture.format, picture.mode) == ("PNG", "L")
                pixels = np.asarray(picture, dtype=np.float32)
            assert np.array_equal(pixels / np.float32(255), shown[kind][row, 0].numpy())


def test_class_names_make_plain_file_names(
    guarded: GuardedClassifier, guard_folder: Path, tmp_path: Path
) -> None:
    pictures = ArrayPictures(
        torch.zeros(2, 1, 12, 12, dtype=torch.uint8), torch.tensor([1, 1]), ("a", "../T-shirt/top")
    )
    unseen = load_bank(guard_folder).unseen
    write_examples(tmp_path, guarded, pictures, unseen, pictures.class_names)
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["0-___t_shirt_top-clean.png", "0-___t_shirt_top-perturbed.png"]
