"""The JSON that `/v1/classify` and `/v1/state` answer with; the operator's page reads both."""

from typing import NotRequired, TypedDict


class ClassAnswer(TypedDict):
    """One classification."""

    label: int
    class_name: str
    probability: float


class Explanation(TypedDict):
    """What `POST /v1/classify?explain=true` adds. Pictures are base64 of PNG files."""

    input_png: str
    """The picture as the classifier saw it: scaled, cropped."""
    rectified_png: str | None
    """None where the graph has no output `rectified`."""
    removed_png: str | None
    """`128 + removed_factor * (input - rectified)`: mid-grey where nothing was removed."""
    removed_factor: float | None
    removed_largest: float | None
    """Largest change of one value, on 0..255."""
    before: ClassAnswer | None
    """The classifier on the input; None where it was flagged and no `bare.onnx` lies beside."""
    after: ClassAnswer | None
    """The classifier on the rectified picture; None where that is missing, or where the picture was
    not flagged and no `bare.onnx` lies beside."""


class Classification(ClassAnswer):
    """`POST /v1/classify`."""

    request_id: str
    model_name: str
    model_version: str
    flagged: bool
    score: float
    threshold: float
    explanation: NotRequired[Explanation]


class AlarmAnswer(TypedDict):
    """The attack alarm; the fields of `alarm.AlarmState`."""

    flagged_share: float
    window: int
    seen: int
    statistic: float
    threshold: float
    raised: bool
    clean_share: float
    alarms: int


class ServerState(TypedDict):
    """`GET /v1/state`. `POST /v1/alarm/acknowledge` starts the alarm anew and answers the same."""

    model_name: str
    model_version: str
    ready: bool
    waiting: int
    """Pictures in the queue."""
    width: int
    height: int
    channels: int
    class_names: list[str]
    flag_threshold: float
    false_positive_rate: float
    explains: bool
    """The graph has the output `rectified`."""
    compares: bool
    """A bare classifier lies beside the graph."""
    alarm: AlarmAnswer
