"""Importing a user's file without touching the search path, and what may go wrong in it."""

import sys
from pathlib import Path

import pytest
import torch

from prn_guard.errors import TargetError
from training.targets.factories import call_factory, split_factory_spec

GOOD = """
from dataclasses import dataclass
import training
from torch import nn

@dataclass
class Plan:
    classes: int = 3

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, Plan().classes))

WHERE = training.__file__
"""


def _file(folder: Path, text: str, name: str = "net.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_specs_are_taken_apart() -> None:
    assert split_factory_spec("a/b.py:make") == (Path("a/b.py"), "make")
    assert split_factory_spec("/x y/c:d.py:Net_2") == (Path("/x y/c:d.py"), "Net_2")
    for other in ("resnet18", "torchvision:resnet18", "a/b.py", "a/b.py:", "a/b.py:1x", "b.txt:f"):
        assert split_factory_spec(other) is None


def test_a_training_package_beside_the_file_neither_clashes_nor_is_found(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    path_before, ours = list(sys.path), sys.modules["training"]
    module = call_factory(_file(tmp_path, GOOD), "build")
    assert module(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    assert sys.path == path_before
    assert sys.modules["training"] is ours
    assert "net" not in sys.modules


def test_files_of_one_name_stay_apart(tmp_path: Path) -> None:
    text = "from torch import nn\ndef build(): return nn.Linear(2, {})\n"
    for count in (3, 4):
        (tmp_path / str(count)).mkdir()
        _file(tmp_path / str(count), text.format(count))
    built = [call_factory(tmp_path / str(count) / "net.py", "build") for count in (3, 4)]
    assert [module.out_features for module in built] == [3, 4]


def test_what_the_file_raises_is_chained(tmp_path: Path) -> None:
    path = _file(tmp_path, "import no_such_package_at_all\n")
    with pytest.raises(
        TargetError, match="fails when it is imported: ModuleNotFoundError"
    ) as error:
        call_factory(path, "build")
    assert isinstance(error.value.__cause__, ModuleNotFoundError)
    assert not [name for name in sys.modules if "no_such_package_at_all" in name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def build(): raise KeyError('layers')", "factory build of .* failed: KeyError: 'layers'"),
        ("def build(depth): ...", "failed: TypeError"),
        ("def build(): return 7", "returned int; expected a torch.nn.Module"),
        ("build = 7", "nothing callable named 'build'"),
        ("def other(): ...", "nothing callable named 'build'"),
        ("def build(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def build(): raise SystemExit(3)", "SystemExit"),
    ],
)
def test_bad_factories_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        call_factory(_file(tmp_path, text), "build")


def test_a_missing_file_is_refused_with_where_it_was_sought(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"no file .*net\.py \(seen from /"):
        call_factory(tmp_path / "net.py", "build")
