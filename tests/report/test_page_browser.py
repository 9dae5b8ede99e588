"""The page in real headless Chromium: nothing in it runs or is fetched, search works, it fits a phone.

Without a browser these tests are skipped, visibly; in CI (environment variable CI) they fail instead.
"""

import json
import os
import shutil
import time

import pytest
from made_up_run import HOSTILE, made_up_run

from neuron_opsd.report import write_report

pytestmark = pytest.mark.slow
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        webdriver = None
    if not (chromium and driver and webdriver):
        what = "needs chromium, chromium-driver (Debian) and selenium (PyPI)"
        pytest.fail(what) if os.environ.get("CI") else pytest.skip(what)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def plain_page(tmp_path_factory):
    return _write(tmp_path_factory, made_up_run())


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    return _write(tmp_path_factory, made_up_run(hostile=True))


def _write(tmp_path_factory, inputs):
    folder = tmp_path_factory.mktemp("page")
    write_report(inputs, folder)
    return folder / "report.html"


def _open(browser, path, *, width=1280, scheme="light"):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}  # no smooth scrolling
    media = {"features": [{"name": name, "value": value} for name, value in features.items()]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for log in ("browser", "performance"):
        browser.get_log(log)  # what earlier pages left
    browser.get(path.as_uri())


def _requests(browser):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}


def _search(browser, words):
    field = browser.find_element("id", "search")
    field.clear()
    field.send_keys(words or " ")
    time.sleep(0.4)
    return browser.find_element("id", "matches").text, browser.find_elements("css selector", "#found > li")


def _unfold(item):
    item.find_element("tag name", "summary").click()
    time.sleep(0.2)  # the toggle event comes after the click


def _open_everything(browser):
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    time.sleep(0.3)


def test_hostile_text_runs_nothing_and_fetches_nothing(browser, hostile_page):
    _open(browser, hostile_page)
    for words in ("", "hacked", "onload", "javascript"):
        _search(browser, words)
        _open_everything(browser)
    for link in browser.find_elements("css selector", "a"):
        assert link.get_attribute("href").startswith(hostile_page.as_uri() + "#")
    _search(browser, "")
    _open_everything(browser)
    browser.execute_script("document.querySelector('.chip').click()")
    assert browser.execute_script("return window.hacked") is None
    assert (
        browser.execute_script("return document.querySelectorAll('img, iframe, object, link, base').length")
        == 0
    )
    assert browser.execute_script("return document.querySelectorAll('script').length") == 2
    assert _requests(browser) == {hostile_page.as_uri()}
    assert browser.get_log("browser") == []
    assert browser.current_url.split("#")[0] == hostile_page.as_uri()
    assert HOSTILE[0] in browser.find_element("tag name", "body").text


def test_the_policy_holds_where_escaping_would_fail(browser, plain_page, tmp_path):
    """The same strings, put into a copy of the page as markup: the policy alone must stop them."""
    raw = [text for text in HOSTILE if "refresh" not in text]  # a policy cannot forbid a refresh
    path = tmp_path / "raw.html"
    path.write_text(plain_page.read_text().replace("<footer>", "".join(raw) + "<footer>"))
    _open(browser, path)
    time.sleep(0.3)
    assert browser.execute_script("return window.hacked") is None
    assert not any("127.0.0.1" in url for url in _requests(browser))
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_search_finds_shows_and_follows_neighbours(browser, plain_page):
    _open(browser, plain_page)
    matches, items = _search(browser, "")
    assert matches.startswith("100 questions")
    assert len(items) == 20
    browser.find_element("id", "more").click()
    assert len(browser.find_elements("css selector", "#found > li")) == 40
    matches, items = _search(browser, "ZEBRA7 pool")
    assert (matches, len(items)) == ("1 of 100 questions match.", 1)
    _unfold(items[0])
    assert "the answer is A" in items[0].text
    assert _search(browser, "no such words")[0] == "0 of 100 questions match."
    _, items = _search(browser, "pool")
    _unfold(items[0])
    chip = items[0].find_element("class name", "chip")
    wanted = chip.text.split(" ")[0]
    chip.click()
    assert browser.find_element("css selector", "#found .meta").text.startswith(wanted)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("kind", ["plain_page", "hostile_page"])
def test_nothing_overflows(browser, request, kind, width, scheme):
    _open(browser, request.getfixturevalue(kind), width=width, scheme=scheme)
    _open_everything(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser, plain_page, scheme):
    """WCAG AA, 4.5 to 1, for text and small print on the page and on panels."""
    _open(browser, plain_page, scheme=scheme)
    read = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()"
    colours = {
        n: browser.execute_script(read, f"--{n}")
        for n in ("paper", "panel", "ink", "soft", "accent", "good", "bad")
    }
    for name in ("ink", "soft", "accent", "good", "bad"):
        for ground in ("paper", "panel"):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def _contrast(first, second):
    bright, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_keyboard_reaches_the_report_and_the_search(browser, plain_page):
    _open(browser, plain_page)
    body = browser.find_element("tag name", "body")
    body.send_keys("\ue004")  # Tab
    assert browser.switch_to.active_element.text == "Skip to the report"
    browser.switch_to.active_element.send_keys("\ue007")  # Enter
    assert browser.execute_script("return document.activeElement.id") == "main"
    _search(browser, "zebra7 pool")
    for _ in range(4):  # past the three filters
        browser.switch_to.active_element.send_keys("\ue004")
    assert browser.switch_to.active_element.tag_name == "summary"
    browser.switch_to.active_element.send_keys("\ue007")
    assert browser.find_element("css selector", "#found details").get_attribute("open")


def test_five_thousand_questions_stay_small_and_quick(browser, tmp_path_factory):
    page = _write(tmp_path_factory, made_up_run(num_pool=5000, num_test=60))
    assert page.stat().st_size < 10_000_000
    start = time.monotonic()
    _open(browser, page)
    matches, _ = _search(browser, "zebra4321")
    assert matches.startswith("1 of 5120")
    assert time.monotonic() - start < 10  # two seconds on a free machine; other work may share this one
