"""The classifier to defend: loading it from where the user keeps it, and rebuilding it later."""

from training.targets.loading import LoadedTarget, load_target, restore_target, save_target_state
from training.targets.options import InputOptions

__all__ = ["InputOptions", "LoadedTarget", "load_target", "restore_target", "save_target_state"]
