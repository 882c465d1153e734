"""`python -m training`: fit a guard, attack a classifier, harden it, evaluate, report.

torch and its friends are imported inside the commands, so that `--help` is instant.
"""

from prn_guard import console
from training.allocator import keep_freed_memory
from training.cli import (
    assessment,
    attacks,
    audits,
    comparison,
    guards,
    hardening,
    measures,
    transfer,
)

app = console.new_app(
    "python -m training", "Fit a guard for a classifier; attack, harden and evaluate."
)
guards.add_to(app)
attacks.add_to(app)
hardening.add_to(app)
measures.add_to(app)
comparison.add_to(app)
audits.add_to(app)
transfer.add_to(app)
assessment.add_to(app)


def main() -> None:
    """Entry point of `python -m training`."""
    keep_freed_memory()
    console.run(app)
