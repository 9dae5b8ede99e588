"""What the browser tests share: opening a page at a size and in a scheme, its requests, its search."""

import json
import os
import shutil
import time

import pytest

ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
TAB, ENTER, SPACE, DOWN = "\ue004", "\ue007", " ", "\ue015"
# Before anything of the page: dialogs and violations of its policy are noted, not shown.
WATCH = """
window.watched = [];
for (const name of ["alert", "confirm", "prompt", "open", "print"])
  window[name] = (...all) => { window.watched.push([name, ...all.map(String)]); };
document.addEventListener("securitypolicyviolation", (event) =>
  window.watched.push(["violation", event.violatedDirective, event.blockedURI, event.sample]));
window.addEventListener("error", (event) => window.watched.push(["error", String(event.message)]), true);
"""


def start():
    """Headless Chromium. Missing, it fails in CI and is a visible skip elsewhere."""
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
    opened.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    return opened


def open_page(browser, address, *, width=1280, scheme="light"):
    """Load an address and wait for the questions browser."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}  # no smooth scrolling
    media = {"features": [{"name": name, "value": value} for name, value in features.items()]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for log in ("browser", "performance"):
        browser.get_log(log)  # what earlier pages left
    browser.get(address)
    wait_for(browser, "return performance.getEntriesByName('questions-ready').length")


def wait_for(browser, condition, *, seconds=30.0):
    end = time.monotonic() + seconds
    while not browser.execute_script(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.03)


def requests_of(browser):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}


def search(browser, words):
    """Type words; the status line and the entries found."""
    field = browser.find_element("id", "search")
    field.clear()
    field.send_keys(words or " ")
    time.sleep(0.4)
    return browser.find_element("id", "matches").text, browser.find_elements("css selector", "#found > li")


def choose(browser, field, value):
    """Pick an option of a filter; the status line."""
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", field)).select_by_value(value)
    return browser.find_element("id", "matches").text


def unfold(element):
    element.find_element("tag name", "summary").click()
    time.sleep(0.2)  # the toggle event comes after the click


def open_everything(browser):
    """All folded parts, and then those that were made inside them."""
    for _ in range(2):
        browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        time.sleep(0.3)


def press(browser, *keys):
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def has_no_complaints(browser):
    """No console message, no dialog, no violation of the policy, no script error."""
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.watched") == []
