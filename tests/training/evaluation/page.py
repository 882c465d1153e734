"""Writing a report in a test, and reading it as a browser would."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from training.evaluation.report import write_report


class Page(HTMLParser):
    """Tags with attributes, and the text without the style sheet."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.feed(html.replace("&nbsp;", " "))
        self.text = re.sub(r"\s+", " ", " ".join(self.parts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.parts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def pixels(self, alt: str) -> np.ndarray:
        """The pictures whose alternative text begins so, `(N, H, W)` or `(N, H, W, 3)`."""
        found = [str(one["src"]) for one in self.all("img") if str(one["alt"]).startswith(alt)]
        contents = [base64.b64decode(uri.split("base64,")[1]) for uri in found]
        return np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in contents])


def rendered(guard: Path, evaluation: Path) -> Page:
    out = guard.parent / "report.html"
    write_report(guard, evaluation, out)
    return Page(out.read_text(encoding="utf-8"))
