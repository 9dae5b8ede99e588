"""Rollouts from a server that speaks OpenAI's completions protocol: vLLM, SGLang, llama.cpp.

Prompts go out as token ids. Token ids come back where the server gives them (vLLM beside the text, llama.cpp beside the
log-probabilities). Where it gives text alone, the text is encoded again, which may split it otherwise than the model
did: good enough for rollouts, said in the log and in the record of the engine, and refused for training. So is a server
that cannot load the student's adapter while it runs.
"""

import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from typing import Any

import httpx
import tenacity
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from neuron_opsd.config import EngineSettings
from neuron_opsd.engines.base import Completion, Request, Sampling, check_finite
from neuron_opsd.engines.server_answers import Choice, Completions, Models, check_ids, read_answer
from neuron_opsd.engines.student_folders import StudentFolders
from neuron_opsd.errors import EngineError
from neuron_opsd.progress import tell
from neuron_opsd.redaction import API_KEY, api_key, hide_own, redact

logger = logging.getLogger(__name__)

LOAD_ADAPTER = "/load_lora_adapter"
BUSY = (429, 502, 503, 504)  # worth asking again
PLAIN = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
MIN_KEY = 16  # characters: a shorter key may be words that a model writes
SHOWN = 400  # characters of a server's refusal that an error shows


class ServerEngine:
    """Asks a server, `engine.concurrency` completions at a time. Each has a seed of its own.

    Args:
        settings: `engine.*`. `url` must be set.
        tokenizer: Encodes text where the server gives no ids.
        end_ids: Tokens that end a completion.
        student: The model in training whose weights the server is to follow. None for the served model as it is.
    """

    def __init__(
        self,
        settings: EngineSettings,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Sequence[int],
        *,
        student: PeftModel | None = None,
    ) -> None:
        assert settings.url is not None
        self.settings, self.tokenizer, self.end_ids = settings, tokenizer, sorted(end_ids)
        try:
            self.key = key = api_key()
        except ValueError as error:
            raise EngineError(str(error)) from None
        self.client = httpx.Client(
            base_url=settings.url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.timeout_s, connect=min(10.0, settings.timeout_s)),
            limits=httpx.Limits(max_connections=settings.concurrency),
            trust_env=False,  # no proxy between us and a server on the same network
        )
        self.model = settings.served_model or self._only_model()
        self.served = self.model
        self.student, self.folders = student, StudentFolders(settings.adapter_root) if student else None
        self.gives_ids = self._probe()
        if student is not None and not self.gives_ids:
            raise EngineError(
                f"{settings.url} gives no token ids, and training on the student's own samples needs them as they "
                "were sampled: text encoded again can be other tokens. Serve with vLLM 0.10.2 or later, or train "
                "with engine.name=hf."
            )
        if student is not None and not self._loads_adapters():
            raise EngineError(
                f"{settings.url} cannot load the student's adapter while it runs, and training on the student's own "
                "samples needs that. Serve with vLLM, --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, or train "
                "with engine.name=hf."
            )
        if not self.gives_ids:
            logger.warning(
                "%s gives no token ids: its text is encoded again, which may differ from what was sampled",
                settings.url,
            )

    def identity(self) -> dict[str, str]:
        """What served, for the record, but not where."""
        version = self._ask("GET", self._root("/version"), allow_missing=True).get("version", "unknown")
        ids = "as sampled" if self.gives_ids else "text encoded again"
        found = {"engine": "server", "model": self.served, "version": str(version), "token_ids": ids}
        return {name: hide_own(value) for name, value in found.items()}  # a server may echo the key

    def refresh(self) -> None:
        """Hand the student's adapter to the server, under a name that it has not used."""
        if self.student is None or self.folders is None:
            return
        before = self.model if self.model != self.served else None
        folder = self.folders.write(self.student)
        name = f"{folder.parent.name}-{folder.name}"
        self._ask("POST", LOAD_ADAPTER, {"lora_name": name, "lora_path": str(folder.resolve())})
        self.model = name
        if before is not None:
            self._ask("POST", "/unload_lora_adapter", {"lora_name": before})

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (request index, completions) as they finish.

        Raises:
            EngineError: the server cannot be reached, refuses, or does not answer within `engine.timeout_s`.
        """
        done: dict[int, dict[int, Completion]] = defaultdict(dict)
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            futures: dict[Future[Completion], tuple[int, int]] = {
                pool.submit(self._complete, request.prompt_ids, seed, sampling): (i, place)
                for i, request in enumerate(requests)
                for place, seed in enumerate(request.seeds)
            }
            try:
                for future in as_completed(futures):
                    i, place = futures[future]
                    done[i][place] = future.result()
                    tell(tokens=len(done[i][place].token_ids))
                    if len(done[i]) == len(requests[i].seeds):
                        yield i, [completion for _, completion in sorted(done.pop(i).items())]
            except (CancelledError, Exception, GeneratorExit):
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def close(self) -> None:
        """Take the adapter back. End the connections."""
        if self.model != self.served:
            with contextlib.suppress(EngineError):
                self._ask("POST", "/unload_lora_adapter", {"lora_name": self.model})
        self.client.close()
        if self.folders is not None:
            self.folders.remove()

    def _complete(self, prompt_ids: Sequence[int], seed: int, sampling: Sampling) -> Completion:
        answer = self._ask(
            "POST",
            "/completions",
            {
                "model": self.model,
                "prompt": list(prompt_ids),
                "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": seed % 2**31,
                "logprobs": 1,
                "stop_token_ids": self.end_ids,
                "return_token_ids": True,
                "skip_special_tokens": False,
                **PLAIN,
                **({} if sampling.top_k is None else {"top_k": sampling.top_k}),
            },
        )
        choice = read_answer(answer, Completions, source=f"{self.settings.url}/completions").choices[0]
        return self._completion(choice, limit=sampling.max_new_tokens)

    def _completion(self, choice: Choice, *, limit: int) -> Completion:
        (ids, log_probs), reason = choice.ids_and_log_probs(), choice.finish_reason
        source = f"{self.settings.url} (model {self.model})"
        # Replies are kept as they are, so one that would put the key into the run's files is refused.
        if self.key and len(self.key) >= MIN_KEY and self.key in choice.text:
            raise EngineError(
                f"{source} wrote the value of {API_KEY} in a reply. It is not stored. Check that server."
            )
        if ids is None:
            ids = self.tokenizer(choice.text, add_special_tokens=False)["input_ids"]
            ids = [*ids, self.end_ids[0]] if reason == "stop" and ids[-1:] != self.end_ids[:1] else ids
        else:
            check_ids(ids, vocabulary=len(self.tokenizer), limit=limit, source=source)
        check_finite(
            log_probs,
            source=source,
            way_out="Serve it in another type (vLLM: --dtype bfloat16, or float32), or use engine.name=hf, which names "
            "the layer.",
        )
        known = tuple(value for value in log_probs if value is not None)  # all of them: None is refused above
        return Completion(
            token_ids=tuple(ids), log_probs=known if len(known) == len(ids) else (), finish_reason=reason
        )

    def _probe(self) -> bool:
        """Whether the server gives token ids back: one token tells."""
        body = {"model": self.model, "prompt": self.end_ids[:1], "max_tokens": 1}
        answer = self._ask("POST", "/completions", body | {"logprobs": 1, "return_token_ids": True})
        choice = read_answer(answer, Completions, source=f"{self.settings.url}/completions").choices[0]
        return bool(choice.ids_and_log_probs()[0])

    def _loads_adapters(self) -> bool:
        """The path is there, though not for GET."""
        return self._response("GET", LOAD_ADAPTER).status_code != 404

    def _only_model(self) -> str:
        models = read_answer(self._ask("GET", "/models"), Models, source=f"{self.settings.url}/models")
        found = [model.id for model in models.data]
        if len(found) != 1:
            raise EngineError(
                f"{self.settings.url} serves {len(found)} models ({', '.join(found[:5])}). "
                "Name one with engine.served_model."
            )
        return found[0]

    def _root(self, path: str) -> str:
        return str(self.client.base_url).rstrip("/").removesuffix("/v1") + path

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, allow_missing: bool = False
    ) -> dict[str, Any]:
        """What the server answers. Nothing where it may be missing and is."""
        response = self._response(method, path, body)
        if response.status_code == 404 and allow_missing:
            return {}
        if response.is_error:
            hint = f" Set {API_KEY}." if response.status_code in (401, 403) else ""
            raise EngineError(
                f"{self.settings.url}{path} answers {response.status_code}: {_shorten(redact(response.text))}.{hint}"
            )
        try:
            answer = json.loads(response.text)
        except (ValueError, RecursionError):
            return {}  # adapters are loaded with a line of text
        return answer if isinstance(answer, dict) else {}

    def _response(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """One call, again after a growing pause while the server is busy or cannot be reached."""
        url, retries = self.settings.url, self.settings.max_retries
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_worth_retrying),
            wait=tenacity.wait_exponential_jitter(initial=0.5, max=30),
            stop=tenacity.stop_after_attempt(retries + 1),
            reraise=True,
        )
        try:
            return again(self._call, method, path, body)
        except httpx.HTTPStatusError as error:
            return error.response
        except httpx.TimeoutException as error:
            raise EngineError(
                f"{url} did not answer {path} within engine.timeout_s={self.settings.timeout_s:g} s. Finished shards "
                "are kept. Check the server, and give the same command again."
            ) from error
        except httpx.TransportError as error:
            raise EngineError(
                f"{url} cannot be reached after {retries + 1} attempts: {error}. Finished shards are kept: start the "
                "server, and give the same command again."
            ) from error

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        response = self.client.request(method, path, json=body)
        if response.status_code in BUSY:
            response.raise_for_status()
        return response


def _shorten(text: str) -> str:
    return (
        text
        if len(text) <= SHOWN
        else f"{text[:SHOWN]} (shortened: the first {SHOWN} of {len(text):,} characters)"
    )


def _is_worth_retrying(error: BaseException) -> bool:
    """A server that starts, restarts or is busy, not one that hangs, which has had its time."""
    if isinstance(error, httpx.HTTPStatusError):
        return True
    return isinstance(error, httpx.TransportError) and not isinstance(
        error, httpx.ReadTimeout | httpx.WriteTimeout
    )
