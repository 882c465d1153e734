"""A picture on the operator's page: ways in, and what is shown of it."""

import re

import numpy as np
import pytest

from tests.prn_guard.serve.page.shown import (
    picture,
    png,
    said_of,
    score_of,
    served,
    write_shown,
)

MINUS, TIMES, DASH = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


def row(page, name):
    """Label, whether it is the answer, probability, and how much of the bar is filled."""
    label, chance = page.element(name).find_elements("css selector", "td")
    answered = "answered" in page.element(name).get_attribute("class")
    text = label.text.removesuffix("the answer").strip()
    assert answered == label.text.endswith("the answer")
    bar = page.run(
        "const [whole, part] = [arguments[0], arguments[0].firstChild]"
        ".map((e) => e.getBoundingClientRect().width); return part / whole",
        chance.find_element("css selector", ".bar"),
    )
    return text, answered, chance.text, bar


def assert_row(page, name, pixels, *, answered):
    label, probability = said_of(pixels)
    found = row(page, name)
    assert found[:3] == (label, answered, probability)
    page.until(lambda: abs(100 * row(page, name)[3] - float(probability[:-2])) < 0.5)


def test_a_flagged_picture(page, tmp_path):
    pixels = picture(bright=True)
    (tmp_path / "bright.png").write_bytes(png(pixels))
    page.choose(tmp_path / "bright.png")
    half = pixels / 2
    label, probability = said_of(half)
    assert page.text("verdict-word") == "Flagged"
    assert page.text("verdict-text") == (
        f"bright.png: answered {label} ({probability}), from the rectified picture"
    )
    assert_row(page, "before", pixels, answered=False)
    assert_row(page, "after", half, answered=True)
    assert said_of(pixels) != said_of(half)
    assert np.array_equal(page.pixels("input"), pixels)
    assert np.abs(page.pixels("rectified") - half).max() <= 0.5
    # Half of every value was removed: at most 127.5, which is white as it is.
    largest = pixels.max() / 2
    factor = max(127 / largest, 1)
    assert np.abs(page.pixels("removed") - np.clip(128 + factor * half, 0, 255)).max() <= 0.5
    assert f"{TIMES} {factor:.3g} around grey; at most {largest:.3g} of 255" in page.text(
        "removed-note"
    )
    assert page.text("rectified-note") == "what was classified"


def test_a_picture_that_passes(page):
    pixels = picture(bright=False)
    assert page.drop(png(pixels), "dark.png")
    label, probability = said_of(pixels)
    assert page.text("verdict-word") == "Not flagged"
    assert page.text("verdict-text") == (
        f"dark.png: answered {label} ({probability}), from the picture as it came"
    )
    assert_row(page, "before", pixels, answered=True)
    assert_row(page, "after", pixels / 2, answered=False)
    factor = float(re.search(TIMES + r" ([\d.]+)", page.text("removed-note"))[1])
    assert factor == pytest.approx(127 / (pixels.max() / 2), rel=5e-3)  # three digits are shown


def test_the_score_on_the_scale_of_the_threshold(page):
    """In pixels: the threshold in the middle, the score where its label and the ends put it."""
    places = {}
    for bright in (True, False):
        pixels = picture(bright=bright)
        page.drop(png(pixels), "p.png")
        score = score_of(pixels)
        assert page.text("scale-value") == f"{score:.4f}"
        assert page.text("scale-middle") == "threshold 0.5000"
        low, high = (
            float(page.text(end).replace(MINUS, "-")) for end in ("scale-low", "scale-high")
        )
        assert low + high == pytest.approx(1.0)
        label = page.element("scale").get_attribute("aria-label")
        assert f"Score {score:.4f}, {'above' if bright else 'not above'} the threshold" in label

        def middle(name):
            return page.run(
                "const r = document.getElementById(arguments[0]).getBoundingClientRect();"
                "return (r.left + r.right) / 2",
                name,
            )

        wide = page.run("return document.getElementById('scale').getBoundingClientRect().width")
        page.until(
            lambda score=score, low=low, high=high, wide=wide: (
                abs(
                    (middle("scale-score") - middle("scale-threshold")) / wide
                    - (score - 0.5) / (high - low)
                )
                < 0.01
            )
        )
        places[bright] = middle("scale-score")
    assert places[False] < middle("scale-threshold") < places[True]


def test_the_same_file_can_be_chosen_again(page, tmp_path):
    sent = (
        "return performance.getEntriesByType('resource')"
        ".filter((entry) => entry.name.includes('classify')).length"
    )
    (tmp_path / "p.png").write_bytes(png(picture(bright=True)))
    page.choose(tmp_path / "p.png")
    assert page.text("verdict-word") == "Flagged"
    assert page.element("file").get_attribute("value") == ""  # else the browser sees no change
    (tmp_path / "p.png").write_bytes(png(picture(bright=False)))
    page.choose(tmp_path / "p.png")
    assert page.text("verdict-word") == "Not flagged"
    page.until(lambda: page.run(sent) == 2)


def test_a_picture_can_be_pasted(page):
    page.drop(png(picture(bright=True)), "pasted.png", way="paste")
    assert page.text("verdict-text").startswith("pasted.png: answered")


def test_of_several_pictures_the_first_is_taken(page):
    page.drop(png(picture(bright=True)), "one.png", count=3)
    assert page.text("verdict-text").startswith("one.png: answered")
    assert page.text("problem") == "Only the first of 3 files is taken: one.png"


def test_a_slow_answer_does_not_replace_a_later_one(page):
    """The first request is held back until the second picture is shown."""
    page.run(
        "const real = window.fetch; let held = false;"
        "window.fetch = async (...given) => {"
        "  if (held || !String(given[0]).includes('classify')) return real(...given);"
        "  held = true;"
        "  await new Promise((go) => { window.release = go; });"
        "  try { return await real(...given); } finally { window.settled = true; } };"
    )
    page.drop(png(picture(bright=True)), "slow.png", wait=False)
    page.until(lambda: page.text("verdict-word").startswith("Examining"))
    page.drop(png(picture(bright=False)), "quick.png")
    assert page.text("verdict-text").startswith("quick.png: answered")
    page.run("release()")
    page.until(lambda: page.run("return window.settled"))
    assert page.text("verdict-word") == "Not flagged"
    assert page.text("verdict-text").startswith("quick.png: answered")
    assert page.text("problem") == ""


@pytest.mark.parametrize(("count", "said"), [(1, "it is no JPEG or PNG"), (0, "That was no file")])
def test_what_is_no_picture_is_refused_in_words(page, tmp_path, count, said):
    page.drop(png(picture(bright=True)), "bright.png")
    page.drop(b"Dear Sir or Madam", "letter.txt", count=count, kind="text/plain")
    assert said in page.text("problem")
    if count:
        assert page.text("problem").startswith("letter.txt: ")
        assert page.text("verdict-word") == "Nothing examined"
        assert not page.element("input").is_displayed()
        assert DASH in page.text("before")
    page.drop(png(picture(bright=False)), "dark.png")
    assert page.text("problem") == ""
    assert page.text("verdict-word") == "Not flagged"


def test_what_the_artifact_does_not_hold_is_said(blank, tmp_path):
    folder = write_shown(tmp_path / "plain", rectified=False, bare=False)
    pixels = picture(bright=True)
    with served(folder) as address:
        blank.open(address)
        blank.drop(png(pixels), "p.png")
        assert blank.text("problem") == ""
        assert "--with-rectified" in blank.text("removed-note")
        assert "--with-rectified" in blank.text("rectified-note")
        assert not blank.element("removed").is_displayed()
        assert "--with-bare" in blank.text("before")
        assert_row(blank, "after", pixels / 2, answered=True)
        blank.drop(png(picture(bright=False)), "d.png")
        assert_row(blank, "before", picture(bright=False), answered=True)
        assert "--with-bare" in blank.text("after")
