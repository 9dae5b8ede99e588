"""Hostile texts in every place that a model, a data set or a user can fill, in real headless Chromium.

The page is served by a listener on this machine that every hostile text points to as well, so each request is seen.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from made_up_run import HOSTILE, TRAP, made_up_run
from page_driver import has_no_complaints, open_everything, open_page, requests_of, search

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def listener():
    """Serves `pages` and remembers every path asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            body = self.server.pages.get(self.path)
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.pages = [], {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def page(listener, write_page):
    text = write_page(made_up_run(hostile=listener.address)).read_bytes()
    listener.pages["/report.html"] = text
    return text.decode()


def test_nothing_runs_and_nothing_is_fetched(browser, listener, page):
    listener.asked.clear()
    address = f"{listener.address}/report.html"
    open_page(browser, address)
    for words in ("", "hacked", "onload", "javascript", "refresh"):
        search(browser, words)
        open_everything(browser)
    for link in browser.find_elements("css selector", "a"):
        assert link.get_attribute("href").startswith(f"{address}#")
    search(browser, "")
    open_everything(browser)
    browser.execute_script("document.querySelector('.chip').click()")
    open_everything(browser)
    time.sleep(0.5)
    foreign = "img, iframe, object, embed, link, base, form, image, use, audio, video, a[href^=javascript]"
    assert browser.execute_script("return document.querySelectorAll(arguments[0]).length", foreign) == 0
    assert browser.execute_script("return document.querySelectorAll('script').length") == 2
    assert browser.execute_script("return document.querySelectorAll('style').length") == 1
    assert browser.execute_script("return window.hacked") is None
    shown = browser.find_element("tag name", "body").text
    assert HOSTILE[0] in shown  # as text
    assert "</main><img" in shown
    assert requests_of(browser) == {address}
    assert set(listener.asked) == {"/report.html"}
    assert browser.current_url.split("#")[0] == address
    has_no_complaints(browser)


def test_the_policy_holds_where_escaping_would_fail(browser, listener, page):
    """The same strings put into the page as markup, by a bug as it were: the policy alone must stop them."""
    listener.asked.clear()
    raw = [
        text.replace(TRAP, listener.address) for text in HOSTILE if "refresh" not in text
    ]  # it allows that
    watched = []
    for index, text in enumerate(raw):
        listener.pages[f"/{index}.html"] = page.replace("</body>", f"{text}</body>").encode()
        open_page(browser, f"{listener.address}/{index}.html")
        time.sleep(0.2)
        assert browser.execute_script("return window.hacked") is None
        watched += browser.execute_script("return window.watched")
    assert set(listener.asked) == {f"/{index}.html" for index in range(len(raw))}
    directives = {entry[1] for entry in watched if entry[0] == "violation"}
    assert {"script-src-elem", "script-src-attr", "style-src-elem", "img-src", "frame-src"} <= directives
    assert "alert" not in {entry[0] for entry in watched}


def test_the_page_cannot_make_markup_of_text(browser, plain_page):
    """Trusted types: even its own script could not, by mistake."""
    open_page(browser, plain_page.as_uri())
    attempt = (
        "try { document.body.innerHTML = '<p>x</p>'; return 'made'; } catch (error) { return error.name; }"
    )
    assert browser.execute_script(attempt) == "TypeError"


def test_the_listener_does_hear_a_page_without_defence(browser, listener):
    """So that hearing nothing means something."""
    listener.pages["/open.html"] = "".join(HOSTILE[8:10]).replace(TRAP, listener.address).encode()
    listener.asked.clear()
    browser.get(f"{listener.address}/open.html")
    time.sleep(0.5)
    assert {"/img", "/frame"} <= set(listener.asked)
