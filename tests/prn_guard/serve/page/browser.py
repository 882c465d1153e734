"""A real browser without a screen, and what tests of the page ask of it."""

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SECONDS = 10
FLAGS = (
    # As root, as in containers, Chromium has no sandbox of its own.
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"),
)
_DROP = """
const [name, type, content, way, count] = arguments;
const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
const data = new DataTransfer();
for (let i = 0; i < count; i += 1) data.items.add(new File([bytes], name, { type }));
const event = way === "paste"
  ? new ClipboardEvent(way, { clipboardData: data, bubbles: true })
  : new DragEvent(way, { dataTransfer: data, bubbles: true, cancelable: true });
document.querySelector("h1").dispatchEvent(event);
return event.defaultPrevented;
"""


def start(profile: Path) -> Any:
    """A browser, or a skipped test where none is installed."""
    pytest.importorskip("selenium", reason="selenium is not installed: no browser can be driven")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed: `make browser`, as root")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(DRIVER))


class Page:
    """The operator's page in the browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.until(lambda: self.text("contact") not in {"", "Asking the server …"})

    def element(self, name: str) -> Any:
        return self.driver.find_element("css selector", name if " " in name else f"#{name}")

    def text(self, name: str) -> str:
        return str(self.element(name).text)

    def run(self, code: str, *values: object) -> Any:
        return self.driver.execute_script(code, *values)

    def until(self, true: Callable[[], object]) -> None:
        """Wait until something holds."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, SECONDS, 0.02).until(lambda _: true())

    def until_answered(self) -> None:
        self.until(lambda: self.element("examine").get_attribute("aria-busy") is None)

    def choose(self, path: Path) -> None:
        self.element("file").send_keys(str(path))
        self.until_answered()

    def drop(
        self,
        content: bytes,
        name: str,
        *,
        way: str = "drop",
        count: int = 1,
        kind: str = "",
        wait: bool = True,
    ) -> bool:
        """Let go of files above the page, or paste them; whether the browser was kept off them."""
        text = base64.b64encode(content).decode()
        prevented = bool(self.run(_DROP, name, kind, text, way, count))
        if wait:
            self.until_answered()
        return prevented

    def keys(self, *pressed: str, held: str = "") -> None:
        """Press keys one after the other, another one held down meanwhile."""
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self.driver)
        if held:
            chain.key_down(held)
        for key in pressed:
            chain.send_keys(key)
        if held:
            chain.key_up(held)
        chain.perform()

    def focused(self) -> str:
        """Id of what has the focus; of the page itself "body"."""
        return str(self.run("const e = document.activeElement; return e.id || e.localName"))

    def pixels(self, name: str) -> np.ndarray:
        """The picture that an element shows, as the server sent it."""
        source = self.element(name).get_attribute("src")
        head, _, content = source.partition(",")
        assert head == "data:image/png;base64"
        self.until(lambda: self.run("return arguments[0].complete", self.element(name)))
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))

    def ask(self, command: str, **values: object) -> Any:
        """Of Chromium itself."""
        return self.driver.execute_cdp_cmd(command, values)

    def sized(self, width: int, height: int) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def coloured(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", features=[feature])

    def look_now(self) -> None:
        """Have the page ask for the state at once, not at its next turn."""
        self.run("return import('./traffic.js').then((traffic) => traffic.watch())")

    def events(self) -> list[dict[str, Any]]:
        """What happened in the browser since the last call: methods with their parameters."""
        return [json.loads(entry["message"])["message"] for entry in self.log("performance")]

    def log(self, kind: str) -> list[dict[str, Any]]:
        return list(self.driver.get_log(kind))
