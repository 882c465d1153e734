"""The operator's page for everybody: names, landmarks, contrast, narrow screens."""

import itertools

import pytest

from tests.prn_guard.serve.page.shown import picture, png, served

CONTRAST = """
const number = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => {
  const [R, G, B] = [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * R + 0.7152 * G + 0.0722 * B;
};
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = number(getComputedStyle(e).backgroundColor);
    if (colour[3] === undefined || colour[3] === 1) return colour;
  }
  return null;
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const found = [];
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const text = walker.currentNode.textContent.trim();
  if (!text || !element.checkVisibility() || element.closest("noscript")) continue;
  const [a, b] = [number(getComputedStyle(element).color), ground(element)].map(light);
  found.push([text, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
}
return found;
"""
"""Every text that is seen, and the contrast of WCAG 2 (relative luminance) with what is behind."""
NEED_NAMES = {"button", "textbox", "img", "image", "region", "table", "form", "heading"}


@pytest.fixture(scope="module")
def full(driver, tmp_path_factory):
    """A page that shows all it has: a flagged picture, a refused one, the alarm."""
    from tests.prn_guard.serve.page.browser import Page
    from tests.prn_guard.serve.page.shown import write_shown

    page = Page(driver)
    folder = write_shown(tmp_path_factory.mktemp("full") / "a-model-of-quite-a-long-name")
    with served(folder, alarm_pictures=100) as address:
        page.open(address)
        for seed in range(10):
            page.drop(
                png(picture(bright=True, seed=seed)), "a-picture-of-quite-a-long-name.png", count=2
            )
        page.until(lambda: page.element("acknowledge").is_displayed())
        yield page


def tree(page):
    page.ask("Accessibility.enable")
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    page.ask("Accessibility.disable")
    return [
        (node["role"]["value"], node.get("name", {}).get("value", ""), node)
        for node in nodes
        if not node["ignored"]
    ]


def test_everything_has_a_name(full):
    found = tree(full)
    roles = [role for role, _, _ in found]
    assert roles.count("banner") == roles.count("main") == 1
    names = {(role, name) for role, name, _ in found}
    assert {
        ("region", "Live traffic"),
        ("region", "Examine a picture"),
        ("button", "Acknowledge"),
        ("table", "Label before and after"),
    } <= names
    assert any(name.startswith("Score 0.") for role, name, _ in found if role in {"img", "image"})
    nameless = [role for role, name, _ in found if role.lower() in NEED_NAMES and not name]
    assert nameless == []
    for _, name, node in found:
        focusable = [p for p in node.get("properties", []) if p["name"] == "focusable"]
        if focusable and node["role"]["value"] != "RootWebArea":
            assert name, node
    for picture_name in ("Original", "What the rectifier removed", "Rectified"):
        assert any(name.startswith(picture_name) for _, name, _ in found), picture_name


def test_headings_come_in_order(full):
    levels = full.run(
        "return [...document.querySelectorAll('h1,h2,h3')].filter((e) => e.checkVisibility())"
        ".map((e) => Number(e.localName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_what_changes_is_read_aloud(full):
    live = dict(full.run(
        "return [...document.querySelectorAll('[role=status],[role=alert]')].map((e) =>"
        " [e.id, e.getAttribute('role')])"
    ))  # fmt: skip
    assert live == {
        "contact": "status", "alarm-word": "status", "alarm-text": "alert", "verdict": "status",
        "problem": "alert", "access-error": "alert",
    }  # fmt: skip
    # What is asked for again and again must not be.
    for quiet in ("share", "share-note", "evidence-note", "seen", "waiting"):
        assert (
            full.run(
                "return document.getElementById(arguments[0])"
                ".closest('[role=status],[role=alert]')",
                quiet,
            )
            is None
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(full, scheme):
    full.coloured(scheme)
    found = full.run(CONTRAST)
    assert len(found) > 40
    ground = full.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 100) == (scheme == "dark")
    assert [(text, round(ratio, 2)) for text, ratio in found if ratio < 4.5] == []
    full.coloured("light")


@pytest.mark.parametrize("width", [320, 400, 800, 1280])
def test_nothing_must_be_scrolled_sideways(full, width):
    full.sized(width, 800)
    assert full.run("return document.documentElement.scrollWidth") <= width
    outside = full.run(
        "return [...document.querySelectorAll('main *')].filter((e) => e.checkVisibility() &&"
        " e.id !== 'file' && e.getBoundingClientRect().right > innerWidth + 0.5)"
        ".map((e) => e.outerHTML)"
    )
    assert outside == []


def test_one_screen_is_enough(full):
    full.sized(1280, 800)
    assert full.run("return document.documentElement.scrollHeight") <= 800
