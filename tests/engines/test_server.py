"""The server engine against servers that hang, refuse, are busy or give no ids; vLLM itself is in test_vllm.py."""

import gc
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from helpers import build_tiny_model, build_tiny_tokenizer
from neuron_opsd.config import EngineSettings
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.server import ServerEngine
from neuron_opsd.engines.student_folders import StudentFolders
from neuron_opsd.errors import EngineError
from neuron_opsd.redaction import API_KEY

Answer = Callable[[str, dict[str, Any]], tuple[int, Any]]
SAMPLING = Sampling(temperature=1.0, max_new_tokens=4)
REQUESTS = [Request(prompt_ids=(5, 6), seeds=(1, 2)), Request(prompt_ids=(7,), seeds=(3,))]


def completion(body: dict[str, Any], *, with_ids: bool = True) -> tuple[int, Any]:
    """The seed comes back as a token, so that each answer can be told apart."""
    token = 10 + body.get("seed", 0)
    choice = {"text": "x", "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5, -0.25]}}
    return 200, {"choices": [choice | ({"token_ids": [token, 2]} if with_ids else {})]}


def plain(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    if path == "/v1/models":
        return 200, {"data": [{"id": "served"}]}
    return completion(body) if path == "/v1/completions" else (404, {})


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    servers = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
                status, value = answer(self.path, body | {"_key": self.headers.get("Authorization")})
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def engine(url: str, **settings: Any) -> ServerEngine:
    student = settings.pop("student", None)
    chosen = EngineSettings(name="server", url=url, **({"timeout_s": 5.0, "max_retries": 1} | settings))
    return ServerEngine(chosen, build_tiny_tokenizer(), [2], student=student)


def test_ids_go_out_and_come_back_each_with_its_seed(serve):
    seen = []

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        seen.append(body)
        return plain(path, body)

    done = dict(engine(serve(answer)).generate(REQUESTS, SAMPLING))
    assert [[c.token_ids for c in done[i]] for i in (0, 1)] == [[(11, 2), (12, 2)], [(13, 2)]]
    assert done[0][0].log_probs == (-0.5, -0.25)
    asked = [body for body in seen if "seed" in body]
    assert {tuple(body["prompt"]) for body in asked} == {(5, 6), (7,)}
    assert all(body["stop_token_ids"] == [2] and body["top_k"] == -1 for body in asked)


def test_a_hanging_server_ends_in_an_error_in_time(serve):
    """Waited for, it would answer after all."""
    given_up = threading.Event()

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body.get("seed") == 3:
            given_up.wait(60)
        return plain(path, body)

    hanging = engine(serve(answer), timeout_s=0.5)
    with pytest.raises(EngineError, match=r"did not answer /completions within engine.timeout_s=0.5 s"):
        list(hanging.generate(REQUESTS, SAMPLING))
    given_up.set()


def test_a_busy_server_is_asked_again(serve):
    counts = {"busy": 0}

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if "seed" in body and counts["busy"] < 2:
            counts["busy"] += 1
            return 503, {}
        return plain(path, body)

    assert len(dict(engine(serve(answer), max_retries=3).generate(REQUESTS, SAMPLING))) == 2
    assert counts["busy"] == 2


def test_no_server_is_named(serve):
    with pytest.raises(EngineError, match=r"127.0.0.1:9/v1 cannot be reached after 2 attempts"):
        engine("http://127.0.0.1:9/v1")


def test_the_key_is_sent_and_never_shown(serve, monkeypatch):
    monkeypatch.setenv(API_KEY, "very-secret")
    keys = []

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        keys.append(body["_key"])
        return 401, {"error": "no"}

    with pytest.raises(EngineError, match=f"answers 401.*Set {API_KEY}") as caught:
        engine(serve(answer))
    assert keys == ["Bearer very-secret"]
    assert "very-secret" not in str(caught.value)


def test_a_long_refusal_is_shortened_and_says_so(serve):
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return 500, {"error": "no" * 8_000}

    with pytest.raises(EngineError, match=r"shortened: the first 400 of 16,013 characters") as caught:
        engine(serve(answer))
    assert len(str(caught.value)) < 700


def test_text_alone_serves_rollouts_and_is_refused_for_training(serve, caplog):
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return completion(body, with_ids=False) if path == "/v1/completions" else plain(path, body)

    url = serve(answer)
    tokenizer = build_tiny_tokenizer()
    done = dict(engine(url).generate(REQUESTS, SAMPLING))
    assert done[1][0].token_ids == (*tokenizer("x")["input_ids"], 2)
    assert "gives no token ids" in caplog.text
    with pytest.raises(EngineError, match="training on the student's own samples needs them"):
        engine(url, student=student())


def test_several_models_need_a_name(serve):
    url = serve(lambda path, body: (200, {"data": [{"id": "a"}, {"id": "b"}]}))
    with pytest.raises(EngineError, match=r"serves 2 models \(a, b\). Name one with engine.served_model"):
        engine(url)


def test_a_refusal_is_shown(serve):
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (400, {"message": "too long"}) if "seed" in body else plain(path, body)

    with pytest.raises(EngineError, match=r"completions answers 400: .*too long"):
        list(engine(serve(answer)).generate(REQUESTS, SAMPLING))


class Adapters:
    """A server that loads adapters, and notes what it is asked."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.asked: list[str] = []

    def __call__(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        name = body.get("lora_name")
        if path == "/v1/load_lora_adapter" and name is None:
            return 405, {}
        if path == "/v1/load_lora_adapter":
            self.loaded.append(name)
        if path == "/v1/unload_lora_adapter":
            self.loaded.remove(name)
        if "seed" in body:
            self.asked.append(body["model"])
        return (200, {}) if name else plain(path, body)


def student():
    return get_peft_model(build_tiny_model(), LoraConfig(r=2, target_modules=["q_proj"]))


def test_each_hand_over_has_a_name_of_its_own_and_nothing_is_left(serve, tmp_path):
    server = Adapters()
    following = engine(serve(server), student=student(), adapter_root=tmp_path / "adapters")
    for count in (1, 2):
        following.refresh()
        list(following.generate(REQUESTS[1:], SAMPLING))
        assert (len(server.loaded), len(set(server.asked))) == (1, count)
        assert server.asked[-1] == server.loaded[0]
        (folder,) = (tmp_path / "adapters").glob("*/*")
        assert (folder / "adapter_model.safetensors").exists()
    following.close()
    assert server.loaded == []
    assert list((tmp_path / "adapters").iterdir()) == []


def test_a_server_that_cannot_load_adapters_is_refused_for_training(serve):
    with pytest.raises(
        EngineError, match=r"cannot load the student's adapter .*VLLM_ALLOW_RUNTIME_LORA_UPDATING"
    ):
        engine(serve(plain), student=student())


def test_adapters_go_when_the_process_fails():
    """Without `close`, as after an error."""
    folders = StudentFolders()
    folder = folders.write(student())
    assert folder.exists()
    del folders
    gc.collect()
    assert not folder.parent.exists()


CHOICE = {
    "text": "x",
    "finish_reason": "stop",
    "token_ids": [11, 2],
    "logprobs": {"token_logprobs": [-0.5, -0.25]},
}
ODD_ANSWERS: list[Any] = [
    {}, [], "text", 7, None, {"choices": None}, {"choices": []}, {"choices": {}}, {"choices": [None]}, {"choices": [3]},
    *({"choices": [CHOICE | change]} for change in (
        {"token_ids": [11, -1]}, {"token_ids": [11, 260]}, {"token_ids": [10**12]}, {"token_ids": ["11"]},
        {"token_ids": [11.5]}, {"token_ids": [True]}, {"token_ids": "11"}, {"token_ids": {"0": 11}},
        {"token_ids": [11] * 5}, {"token_ids": None, "text": None}, {"token_ids": None, "text": 5},
        {"finish_reason": None}, {"finish_reason": "abort"}, {"finish_reason": 3}, {"finish_reason": "content_filter"},
        {"logprobs": []}, {"logprobs": "none"}, {"logprobs": {"token_logprobs": "x"}},
        {"logprobs": {"token_logprobs": ["-0.5", -0.5]}}, {"logprobs": {"token_logprobs": [float("nan"), -0.5]}},
        {"logprobs": {"token_logprobs": [float("-inf"), -0.5]}}, {"logprobs": {"token_logprobs": [None, -0.5]}},
        {"logprobs": {"content": 5}}, {"logprobs": {"content": [5]}},
        {"token_ids": None, "logprobs": {"content": [{"id": "a", "logprob": -1.0}]}},
        {"token_ids": None, "logprobs": {"content": [{"id": 999, "logprob": -1.0}]}},
    )),
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD_ANSWERS, ids=lambda odd: json.dumps(odd)[:60])
def test_an_answer_that_cannot_be_used_is_refused(serve, odd):
    """The first call, which only asks what the server gives, is answered well."""

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (200, odd) if "seed" in body else plain(path, body)

    with pytest.raises(EngineError, match=r"127\.0\.0\.1") as refused:
        list(engine(serve(answer)).generate(REQUESTS, SAMPLING))
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("odd", [*ODD_ANSWERS[:10], {"data": 5}, {"data": [{}]}, {"data": [{"id": 5}]}])
def test_odd_answers_to_the_first_questions_are_refused(serve, odd):
    with pytest.raises(EngineError, match=r"127\.0\.0\.1"):
        engine(serve(lambda path, body: (200, odd)))
