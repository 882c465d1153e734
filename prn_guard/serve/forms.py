"""A picture out of an HTTP request's body: raw, or as the one file of a multipart form."""

from email.message import Message
from typing import TYPE_CHECKING, Final, final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from prn_guard.serve.errors import MalformedError, MediaTypeError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

RAW: Final = frozenset({"image/jpeg", "image/png", "application/octet-stream", ""})
FORM: Final = "multipart/form-data"
_MOST_PARTS: Final = 32
_ADVICE: Final = (
    "Send a JPEG or PNG as the body, with the Content-Type image/jpeg or image/png, or as the one "
    "file of a multipart form."
)


def picture_bytes(body: bytes, content_type: str | None) -> bytes:
    """The file that a client sent.

    Args:
        body: the whole.
        content_type: the header.

    Raises:
        MediaTypeError: the body is neither a picture nor a form.
        MalformedError: the form is damaged, or has not exactly one file.
    """
    header = Message()
    header["Content-Type"] = content_type or "application/octet-stream"
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in RAW:
        return body
    if kind != FORM:
        raise MediaTypeError(f"The Content-Type is {kind[:100]!r}. {_ADVICE}")
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 256 or not boundary.isascii():
        raise MalformedError("The form's Content-Type states no boundary.")
    files = _Files()
    try:
        parser = MultipartParser(boundary.encode("ascii"), files.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise MalformedError(f"The form cannot be read: {str(error)[:200]}.") from error
    if len(files.found) != 1 or not files.ended:
        raise MalformedError(f"The form holds {len(files.found)} files. {_ADVICE}")
    return bytes(files.found[0])


@final
class _Files:
    """Collects the parts of a form that are files; other fields are passed over."""

    def __init__(self) -> None:
        self.found: list[bytearray] = []
        self.ended = False
        self._name, self._value = bytearray(), bytearray()
        self._parts = 0
        self._disposition = ""
        self._current: bytearray | None = None

    def callbacks(self) -> "MultipartCallbacks":
        """By the parser's names of what happens."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._disposition, self._current = "", None
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise MalformedError(f"The form has more than {_MOST_PARTS} parts. {_ADVICE}")

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value.decode("latin-1")
        self._name.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        header = Message()
        header["Content-Disposition"] = self._disposition.replace("\r", "").replace("\n", "")
        if header.get_filename() is not None:
            self._current = bytearray()
            self.found.append(self._current)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._current is not None:
            self._current += data[start:end]

    def _end(self) -> None:
        self.ended = True
