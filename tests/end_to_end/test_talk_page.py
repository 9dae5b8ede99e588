"""The page of `ask --web` and `chat --web`, on a real server: what it answers, what it refuses, and in Chromium."""

import http.client
import json
import threading
import time
from collections.abc import Iterator

import pytest

from end_to_end.fork_run import WholeRun
from neuron_opsd.store.run_folder import RunFolder

uvicorn = pytest.importorskip("uvicorn", reason="needs the extra web")

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def port(whole_run: WholeRun) -> Iterator[int]:
    """Of a server of the page."""
    from neuron_opsd.commands.loopback import take_port
    from neuron_opsd.commands.speakers import Speakers
    from neuron_opsd.commands.web import make_app

    with take_port(0) as taken:
        number = taken.getsockname()[1]
        app = make_app(Speakers(RunFolder.open(whole_run.folder)), port=number, max_new_tokens=3)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield number
        server.should_exit = True
        thread.join(10)


def call(port: int, path: str, body: object = None, **headers: str) -> Answer:
    """A GET, or a POST with a body. `_` in the names of headers stands for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    own = {"Content-Type": "application/json"} if body is not None else {}
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, str) else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, None if body is None else data, own)
    response = connection.getresponse()
    return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()


def test_it_answers_as_ask_and_chat_do(port: int, whole_run: WholeRun) -> None:
    status, _, text = call(port, "/about")
    about = json.loads(text)
    assert (status, about["roles"], about["samples"]) == (200, ["base", "trained"], 3)
    body = {"role": "trained", "question": "2 + 2?", "choices": ["3", "4"], "samples": 2}
    status, _, text = call(port, "/ask", body)
    answers = json.loads(text)
    assert status == 200
    assert len(answers["replies"]) == 2
    assert sum(answers["option_probabilities"].values()) == pytest.approx(1)
    turns = [{"role": "user", "content": "Hello"}]
    first = json.loads(call(port, "/chat", {"role": "base", "messages": turns})[2])
    assert first["is_cut"] in (True, False)
    turns += [{"role": "assistant", "content": first["text"]}, {"role": "user", "content": "And?"}]
    assert call(port, "/chat", {"role": "base", "messages": turns})[0] == 200


def test_nothing_is_loaded_from_elsewhere(port: int) -> None:
    for path in ("/", "/talk.css", "/talk.js"):
        status, headers, text = call(port, path)
        assert status == 200
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert b"://" not in text
        assert b"innerHTML" not in text


@pytest.mark.parametrize("path", ["/", "/about"])
def test_another_host_is_refused(port: int, path: str) -> None:
    """DNS rebinding: another site's name that leads to this machine."""
    assert call(port, path, Host="evil.example")[0] == 400
    assert call(port, path, Host=f"localhost:{port}")[0] == 200


def test_another_site_is_refused(port: int) -> None:
    body = {"role": "base", "question": "2 + 2?"}
    assert call(port, "/ask", body, Origin="http://evil.example")[0] == 403
    assert call(port, "/ask", body, Origin="null")[0] == 403
    assert call(port, "/ask", body, Origin=f"http://127.0.0.1:{port + 1}")[0] == 403
    assert call(port, "/ask", body, Content_Type="text/plain")[0] == 415  # what a foreign form can send
    assert call(port, "/ask", body, Content_Length="9999999")[0] == 413


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/ask", {"role": "base", "question": "  "}, "The question is empty"),
        ("/ask", {"role": "base", "question": "a?", "choices": ["b"]}, "Give 2 to 26"),
        ("/ask", {"role": "base", "question": "a?", "samples": 0}, "greater than or equal to 1"),
        ("/ask", {"role": "other", "question": "a?"}, "No model 'other'"),
        ("/ask", "no JSON", "Not a request of this page"),
        ("/chat", {"role": "base", "messages": []}, "Not a request of this page"),
        ("/chat", {"role": "base", "messages": [{"role": "user", "content": "x " * 3000}]}, "Start anew"),
        ("/chat", {"role": "base", "messages": [{"role": "system", "content": "x"}]}, "Not a request"),
    ],
)  # fmt: skip
def test_bad_requests_are_explained(port: int, path: str, body: object, said: str) -> None:
    status, _, text = call(port, path, body)
    assert status == 400
    assert said in json.loads(text)["error"]


@pytest.mark.slow
def test_the_page_in_chromium(port: int) -> None:
    from report.page_driver import has_no_complaints, open_page, requests_of, start, wait_for

    browser = start()
    try:
        open_page(browser, f"http://127.0.0.1:{port}/#ask", width=390)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        browser.find_element("id", "question").send_keys("<b id=bold>2 + 2?</b>")
        browser.find_element("id", "choices").send_keys("<img src=x onerror=alert(1)>\nfour")
        browser.find_element("css selector", "#ask-form button").click()
        wait_for(browser, "return document.querySelectorAll('#answers .answer').length == 2")
        assert "<img src=x onerror=alert(1)>" in browser.find_element("id", "answers").text
        assert not browser.find_elements("css selector", "main img, #bold")
        browser.find_element("css selector", "nav a[href='#chat']").click()
        for count, words in enumerate(["Hello", "<script>alert(2)</script>"], start=1):
            browser.find_element("id", "message").send_keys(words)
            browser.find_element("css selector", "#chat-form button").click()
            wait_for(browser, f"return document.querySelectorAll('.user').length == {2 * count}")
            wait_for(browser, "return !document.querySelector('.waiting')")
        assert "<script>alert(2)</script>" in browser.find_element("id", "conversations").text
        browser.find_element("id", "reset").click()
        assert not browser.find_elements("css selector", ".user")
        has_no_complaints(browser)
        hosts = {address.split("/")[2] for address in requests_of(browser) if address.startswith("http")}
        assert hosts == {f"127.0.0.1:{port}"}
        browser.find_element("css selector", "nav a[href='#ask']").click()
        browser.execute_script("document.getElementById('choices').value = 'one alone'")
        browser.find_element("css selector", "#ask-form button").click()
        wait_for(browser, "return !document.getElementById('problem').hidden")
        assert "Give 2 to 26" in browser.find_element("id", "problem").text
    finally:
        browser.quit()
