"""HTTP written and read by hand, for what no client library would send."""

import json

import numpy as np

from tests.prn_guard.serve.running import NAME, infer_body

INFER = f"/v2/models/{NAME}/infer"
PICTURE = np.full((1, 8, 8, 3), 7, np.uint8)


def works(running):
    answer = running.ask("POST", INFER, infer_body(PICTURE))
    assert answer.status == 200
    return answer.json["outputs"][2]["data"]


def rest_of(connection):
    """Everything until the server closes the connection."""
    parts = []
    try:
        while piece := connection.recv(65536):
            parts.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def head(path=INFER, **headers):
    named = {"Host": "localhost", **{key.replace("_", "-"): text for key, text in headers.items()}}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {text}" for name, text in named.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def answer_of(connection):
    """One whole answer with a length; the connection stays."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    text, _, body = answer.partition(b"\r\n\r\n")
    length = int(text.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return text + b"\r\n\r\n" + body


def status_of(answer):
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer.split(b" ")[1])


def error_of(answer):
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
