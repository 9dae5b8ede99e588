"""The page in real headless Chromium: it is clicked through, used by keyboard alone, and fits phone and desk.

Without a browser these tests are skipped, visibly; in CI (environment variable CI) they fail instead.
"""

import dataclasses
import re
from itertools import pairwise

import pytest
from made_up_run import made_up_run
from page_driver import (
    DOWN,
    ENTER,
    TAB,
    choose,
    has_no_complaints,
    open_everything,
    open_page,
    press,
    search,
    unfold,
    wait_for,
)

pytestmark = pytest.mark.slow


def test_search_finds_shows_and_follows_neighbours(browser, plain_page):
    open_page(browser, plain_page.as_uri())
    matches, items = search(browser, "")
    assert matches == "100 questions."
    assert len(items) == 20
    browser.find_element("id", "more").click()
    assert len(browser.find_elements("css selector", "#found > li")) == 40
    assert browser.execute_script("return document.activeElement.tagName") == "SUMMARY"  # the first new one
    matches, items = search(browser, "ZEBRA7 pool")
    assert (matches, len(items)) == ("1 of 100 questions match.", 1)
    unfold(items[0])
    assert "the answer is A" in items[0].text
    assert search(browser, "no such words")[0] == "0 of 100 questions match."
    _, items = search(browser, "pool")
    unfold(items[0])
    chip = items[0].find_element("class name", "chip")
    wanted = chip.text.split(" ")[0]
    chip.click()
    assert browser.find_element("css selector", "#found .meta").text.startswith(wanted)
    assert len(browser.find_elements("css selector", "#found > li")) == 1
    assert browser.find_element("css selector", "#found details").get_attribute("open")
    has_no_complaints(browser)


def test_filters_and_order(browser, plain_page):
    open_page(browser, plain_page.as_uri())
    assert choose(browser, "which", "selected") == "8 of 100 questions match."
    assert choose(browser, "which", "rest") == "32 of 100 questions match."
    assert choose(browser, "domain", "art") == "0 of 100 questions match."
    assert choose(browser, "which", "test") == "30 of 100 questions match."
    choose(browser, "domain", "")
    choose(browser, "which", "all")
    choose(browser, "order", "lowest")
    lines = [e.text for e in browser.find_elements("css selector", "#found .meta")]
    scores = [float(re.search(r"s\(x\) (\S+)", line)[1]) for line in lines]
    assert scores == sorted(scores)
    choose(browser, "order", "shortest")
    first = browser.find_element("css selector", "#found .meta").text
    assert first.endswith(" 5 tokens")
    has_no_complaints(browser)


@pytest.mark.parametrize("order", ["nearest_first", "nearest_last"])
def test_both_prompts_of_a_selected_question(browser, write_page, order):
    run = made_up_run(num_test=12)
    config = {**run.config, "contexts": {**run.config["contexts"], "order": order}}
    open_page(browser, write_page(dataclasses.replace(run, config=config)).as_uri())
    choose(browser, "which", "selected")
    item = browser.find_element("css selector", "#found > li")
    unfold(item)
    student, teacher = item.find_elements("css selector", "#found details details")
    assert student.text == "What the student reads, 80 tokens"
    assert teacher.text == "What the teacher reads, 420 tokens, 3 demonstrations, 1 dropped to fit"
    for part in (student, teacher):
        unfold(part)
    asked = student.find_elements("tag name", "pre")[-1].text
    assert asked.startswith("What is ")
    assert "\nA. choice 0\n" in asked
    assert "Think briefly" in asked
    roles = [e.text for e in teacher.find_elements("class name", "role")]
    assert roles[-7:] == ["user", "assistant"] * 3 + ["user"]
    turns = [e.text for e in teacher.find_elements("tag name", "pre")][-7:]
    assert turns[-1] == asked
    replies = [f"Since {index} is small, the answer is A." for index in (0, 1, 2)]  # nearest first
    assert turns[1::2] == (replies if order == "nearest_first" else replies[::-1])


def test_keyboard_alone(browser, plain_page):
    open_page(browser, plain_page.as_uri())
    browser.find_element("tag name", "body").send_keys(TAB)
    assert browser.switch_to.active_element.text == "Skip to the report"
    press(browser, ENTER)
    assert browser.execute_script("return document.activeElement.id") == "main"
    for _ in range(200):
        press(browser, TAB)
        if browser.execute_script("return document.activeElement.id") == "search":
            break
    browser.switch_to.active_element.send_keys("zebra pool")
    press(browser, TAB, DOWN)  # "Selected for training"
    assert browser.find_element("id", "matches").text == "8 of 100 questions match."
    press(browser, TAB, TAB, TAB)
    assert browser.switch_to.active_element.tag_name == "summary"
    style = "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth)]"
    assert browser.execute_script(style) == ["solid", 2]
    press(browser, ENTER)
    assert browser.find_element("css selector", "#found details").get_attribute("open")
    press(browser, TAB)
    assert "chip" in browser.switch_to.active_element.get_attribute("class")
    wanted = browser.switch_to.active_element.text.split(" ")[0]
    press(browser, ENTER)
    assert browser.switch_to.active_element.tag_name == "summary"
    assert wanted in browser.switch_to.active_element.text
    has_no_complaints(browser)


def test_what_a_screen_reader_finds(browser, plain_page):
    """Landmarks, names of all fields, headings that skip no level, figures and tables with names."""
    open_page(browser, plain_page.as_uri())
    open_everything(browser)
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n["ignored"]]
    roles = [role for role, _ in nodes]
    for landmark in ("banner", "navigation", "main", "search", "contentinfo"):
        assert roles.count(landmark) == 1, landmark
    named = {"searchbox", "combobox", "button", "image", "table", "region", "link", "navigation"}
    assert [role for role, name in nodes if role in named and not name] == []
    assert roles.count("image") + roles.count("img") >= 10
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert browser.execute_script("return document.querySelectorAll('table:not(:has(caption))').length") == 0
    assert browser.execute_script("return document.querySelectorAll('th:not([scope])').length") == 0


WIDEST = """
const wide = [];
for (const element of document.querySelectorAll("p, li, figcaption, summary, td, th")) {
  if (element.closest("#found, .fields, nav")) continue;
  const range = document.createRange();
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  const lines = new Map();
  for (let node = walker.nextNode(); node; node = walker.nextNode())
    for (let i = 0; i < node.length; i++) {
      range.setStart(node, i);
      range.setEnd(node, i + 1);
      const box = range.getBoundingClientRect();
      if (box.width) lines.set(Math.round(box.bottom / 4), (lines.get(Math.round(box.bottom / 4)) || 0) + 1);
    }
  const longest = Math.max(0, ...lines.values());
  if (longest > arguments[0]) wide.push([longest, element.textContent.slice(0, 60)]);
}
return wide;
"""


def test_no_line_of_text_is_wider_than_people_read(browser, plain_page):
    """About 75 characters: the average line is shorter, a line of narrow letters a little longer."""
    open_page(browser, plain_page.as_uri())
    open_everything(browser)
    assert browser.execute_script(WIDEST, 90) == []


def test_the_first_screen_has_the_sentence_and_the_pictures(browser, plain_page):
    """At the width of a desk: the sentence, the pictures of what changed and the first reliability diagram."""
    open_page(browser, plain_page.as_uri())
    bottom = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom"
    assert browser.execute_script(bottom, ".lead") < 250
    assert browser.execute_script(bottom, "#summary .figures figure:nth-child(3)") < 600
    right = (
        "return document.querySelector('#summary .figures figure:nth-child(3)').getBoundingClientRect().right"
    )
    assert browser.execute_script(right) > 0.9 * 1280  # no empty right half


def test_sections_fold_open_by_a_link_and_for_print(browser, plain_page):
    open_page(browser, plain_page.as_uri())
    is_open = "return document.querySelector('#training details.part').open"
    assert not browser.execute_script(is_open)
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(is_open)
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert not browser.execute_script(is_open)
    browser.find_element("css selector", "nav a[href='#training']").click()
    wait_for(browser, is_open)
    top = "return document.querySelector('#training').getBoundingClientRect().top"
    assert -1 <= browser.execute_script(top) < 900
    has_no_complaints(browser)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["plain_page", "hostile_page"])
def test_nothing_overflows(browser, request, kind, width, scheme):
    open_page(browser, request.getfixturevalue(kind).as_uri(), width=width, scheme=scheme)
    open_everything(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    has_no_complaints(browser)


# Text on its ground, as page.css pairs them.
TEXTS = [
    (text, ground)
    for text in ("ink", "soft", "accent", "good", "bad", "before")
    for ground in ("paper", "panel")
]
TEXTS += [("ink", "notice"), ("accent", "notice"), ("soft", "notice"), ("paper", "accent")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser, plain_page, scheme):
    """WCAG AA: 4.5 to 1 for every pair of text and ground."""
    open_page(browser, plain_page.as_uri(), scheme=scheme)
    read = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()"
    for text, ground in TEXTS:
        colours = [browser.execute_script(read, f"--{name}") for name in (text, ground)]
        assert _contrast(*colours) >= 4.5, (text, ground, colours)


def _contrast(first, second):
    bright, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_motion_is_reduced_where_it_is_asked_for(browser, plain_page):
    open_page(browser, plain_page.as_uri())  # asks for it
    read = "return getComputedStyle(document.documentElement).scrollBehavior"
    assert browser.execute_script(read) == "auto"
