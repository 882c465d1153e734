"""An inference-time guard against universal adversarial perturbations.

`Guard` runs the exported graph and needs no torch; it is loaded on first use, so that importing
this package costs nothing.
"""

from typing import TYPE_CHECKING, Any

from prn_guard.version import __version__

if TYPE_CHECKING:
    from prn_guard.guard import Guard
    from prn_guard.verdict import Verdict

__all__ = ["Guard", "Verdict", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Guard":
        from prn_guard.guard import Guard

        return Guard
    if name == "Verdict":
        from prn_guard.verdict import Verdict

        return Verdict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
