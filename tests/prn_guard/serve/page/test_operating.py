"""The operator's page at work: alarm, token, lost contact, keyboard, what leaves the machine."""

import http.client
from urllib.parse import urlsplit

from tests.prn_guard.serve.page.shown import picture, png, served

WORDS = "correct-horse-battery-staple"
TAB, ENTER, SHIFT = "\ue004", "\ue007", "\ue008"


def attack(address, count, *, bright=True):
    """Send pictures as a client does."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    for seed in range(count):
        connection.request("POST", "/v1/classify", png(picture(bright=bright, seed=seed)))
        response = connection.getresponse()
        assert response.status == 200, response.read()
        response.read()
    connection.close()


def test_the_alarm_is_shown_and_acknowledged(blank, folder):
    with served(folder, alarm_pictures=1000) as address:
        attack(address, 12, bright=False)
        blank.open(address)
        assert (blank.text("alarm-word"), blank.text("share")) == ("Quiet", "0 %")
        assert not blank.element("acknowledge").is_displayed()
        attack(address, 4)
        blank.until(lambda: blank.text("alarm-word") == "Raised")
        assert "More pictures are flagged" in blank.text("alarm-text")
        assert blank.text("alarm-count") == "Raised once since the server started"
        assert blank.driver.title == "Attack alarm \N{EN DASH} PRN-Guard"
        assert (blank.text("share"), blank.text("seen")) == ("25.0 %", "16")
        assert "last 16 pictures; 1.0 % expected" in blank.text("share-note")
        assert " of 1,000, on a logarithmic scale" in blank.text("evidence-note")
        blank.element("acknowledge").click()
        blank.until(lambda: blank.text("alarm-word") == "Quiet again")
        assert blank.text("alarm-text") == ""
        assert not blank.element("acknowledge").is_displayed()
        assert blank.driver.title == "PRN-Guard"
        assert blank.focused() == "alarm-title"
        attack(address, 20)
        blank.look_now()
        blank.until(lambda: blank.text("alarm-count") == "Raised 2 times since the server started")


def test_by_keyboard_alone(blank, folder, tmp_path):
    path = tmp_path / "bright.png"
    path.write_bytes(png(picture(bright=True)))
    with served(folder, alarm_pictures=100) as address:
        blank.open(address)
        blank.keys(TAB)
        assert blank.focused() == "file"
        ring = "return getComputedStyle(arguments[0]).outlineStyle"
        assert blank.run(ring, blank.element("#drop label")) == "solid"
        blank.ask("Page.setInterceptFileChooserDialog", enabled=True)
        blank.events()
        blank.keys(ENTER)
        opened = []
        blank.until(lambda: opened.extend(
            event["params"] for event in blank.events()
            if event["method"] == "Page.fileChooserOpened"
        ) or opened)  # fmt: skip
        node = opened[0]["backendNodeId"]
        blank.ask("DOM.setFileInputFiles", files=[str(path)], backendNodeId=node)
        blank.until(lambda: blank.text("verdict-word") == "Flagged")
        blank.ask("Page.setInterceptFileChooserDialog", enabled=False)
        attack(address, 10)
        blank.look_now()
        blank.until(lambda: blank.element("acknowledge").is_displayed())
        assert blank.focused() == "file"
        blank.keys(TAB, held=SHIFT)
        assert blank.focused() == "acknowledge"
        assert blank.run(ring, blank.element("acknowledge")) == "solid"
        blank.keys(ENTER)
        blank.until(lambda: blank.text("alarm-word") == "Quiet again")


def test_a_token_is_asked_for_and_kept_in_memory_only(blank, folder):
    with served(folder, token=WORDS) as address:
        blank.driver.get(address)
        blank.until(lambda: blank.element("access").is_displayed())
        assert blank.focused() == "token"
        assert blank.text("contact") == "Token needed"
        blank.drop(png(picture(bright=True)), "bright.png")
        assert "asks for a token" in blank.text("problem")
        blank.keys("wrong", ENTER)
        blank.until(lambda: blank.text("access-error") == "The server does not take this token.")
        assert blank.element("token").get_attribute("value") == ""
        blank.element("token").send_keys(WORDS, ENTER)
        blank.until(lambda: blank.text("contact") == "Ready")
        assert not blank.element("access").is_displayed()
        # The picture that was refused is sent again, without being asked for.
        blank.until(lambda: blank.text("verdict-word") == "Flagged")
        kept = blank.run(
            "return [localStorage.length, sessionStorage.length, document.cookie,"
            " document.documentElement.outerHTML, location.href].join()"
        )
        assert kept.startswith("0,0,,")
        assert WORDS not in kept
        blank.driver.refresh()
        blank.until(lambda: blank.element("access").is_displayed())


def test_a_server_that_went_away(blank, folder):
    with served(folder) as address:
        blank.open(address)
        blank.until(lambda: blank.text("contact") == "Ready")
    blank.drop(png(picture(bright=True)), "bright.png")
    assert blank.text("problem") == "bright.png: The server cannot be reached. Is it still running?"
    blank.until(lambda: blank.text("contact") == "No contact: what is shown is old")


def test_nothing_leaves_the_server_and_nothing_is_blocked(page, address):
    page.drop(png(picture(bright=True)), "bright.png")
    page.until(lambda: page.run("return performance.getEntriesByName(arguments[0]).length > 1",
                                f"{address}v1/state"))  # fmt: skip
    asked = [
        event["params"]["request"]["url"]
        for event in page.events()
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert {url for url in asked if not url.startswith(("data:", address))} <= {"about:blank"}
    assert {"", "page.css", "page.js", "page.svg", "v1/state", "v1/classify?explain=true"} <= {
        url.removeprefix(address) for url in asked
    }
    assert page.log("browser") == []


def test_the_policy_stops_scripts_and_styles_of_others(page):
    page.run(
        "window.stopped = [];"
        "addEventListener('securitypolicyviolation', (e) => stopped.push(e.effectiveDirective));"
        "const script = document.createElement('script');"
        "script.textContent = 'window.entered = true'; document.body.append(script);"
        "document.body.setAttribute('style', 'color: red');"
        "fetch('http://127.0.0.1:1/').catch(() => {});"
        "const image = new Image(); image.src = 'http://127.0.0.1:1/x.png';"
    )
    page.until(lambda: page.run("return stopped.length") == 4)
    assert {name.split("-")[0] for name in page.run("return stopped")} == {
        "script", "style", "connect", "img",
    }  # fmt: skip
    assert page.run("return window.entered") is None


def test_names_from_the_artifact_are_text(page):
    """One class is called `bee & <i>wasp</i>`."""
    shown = set()
    for seed in range(40):
        if any("<i>" in text for text in shown):
            break
        page.drop(png(picture(bright=False, seed=seed)), f"<b>{seed}</b>.png")
        assert f"<b>{seed}</b>.png" in page.text("verdict-text")
        shown.add(page.text("before"))
    assert any("bee & <i>wasp</i>" in text for text in shown)
    assert (
        page.run("return document.querySelectorAll('#verdict i, td i:not(.bar i), main b').length")
        == 0
    )
