"""Forms: the one file of them, or one error; whatever the bytes."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_guard.serve.errors import MalformedError, MediaTypeError
from prn_guard.serve.forms import picture_bytes

KIND = "multipart/form-data; boundary=b"
FILE = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


def form(*parts):
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"PNG", b"\r\n--", b"\r\n--c\r\n", b"a\r\nb\n\r", bytes(range(256)), b"-" * 100],
)
def test_the_file_comes_back_byte_for_byte(content):
    other = b'Content-Disposition: form-data; name="image"\r\n\r\nno file'
    for parts in ([FILE + content], [other, FILE + content], [FILE + content, other]):
        assert picture_bytes(form(*parts), KIND) == content


@pytest.mark.parametrize(
    "name",
    ['filename="a;b=\\"c\\".png"', "filename=", "filename*=UTF-8''%e2%82%ac", 'FILENAME="x"'],
)
def test_a_file_is_what_has_a_file_name(name):
    part = f"content-disposition: form-data; {name}\r\n\r\nPNG".encode()
    assert picture_bytes(form(part), KIND) == b"PNG"


def test_quoted_boundaries_and_upper_case():
    assert picture_bytes(form(FILE + b"x"), 'Multipart/Form-Data; charset=x; Boundary="b"') == b"x"


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([KIND, "multipart/form-data; boundary=", "multipart/form-data;boundary*=x''b"])
    | st.text(max_size=40),
)
def test_no_bytes_break_it(body, kind):
    with contextlib.suppress(MalformedError, MediaTypeError):
        picture_bytes(body, kind)
    with contextlib.suppress(MalformedError):
        picture_bytes(b"--b\r\n" + body, KIND)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=5))
def test_no_changed_byte_breaks_it(changes):
    body = bytearray(form(FILE + b"picture"))
    for place, value in changes:
        body[place % len(body)] = value
    with contextlib.suppress(MalformedError):
        picture_bytes(bytes(body), KIND)
