"""The one exception tree: every error that a caller's input can cause.

Each message says what arrived, what was expected and what to do. The command lines turn any
`PrnGuardError` into that message and exit code 2; anything else that escapes is a defect.
"""


class PrnGuardError(Exception):
    """Base of every error that this project raises on purpose."""


class InvalidArgumentError(PrnGuardError, ValueError):
    """An argument lies outside its documented range, shape or set of choices."""


class DataError(PrnGuardError):
    """Pictures, labels or perturbations are missing, unreadable or do not fit."""


class TooManyPixelsError(DataError):
    """A picture has more pixels than are decoded."""


class TargetError(PrnGuardError):
    """The classifier to defend cannot be loaded, or does not behave as a classifier."""


class ArtifactError(PrnGuardError):
    """A file that this project wrote (graph, manifest, guard folder) is damaged or foreign."""


class DeviceError(PrnGuardError):
    """The device that was asked for is not available."""


class StorageError(PrnGuardError):
    """A result could not be written; nothing half-written stays under the final name."""
