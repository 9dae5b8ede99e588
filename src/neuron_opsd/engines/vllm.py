"""Rollouts from vLLM in this process (extra `vllm`, on a CPU `make venv-vllm`).

Ids in, ids out. In training the student's LoRA adapter, or all its weights, are handed over whenever they have changed.
On a GPU the engine sleeps while the trainer works, so that one card serves both.
"""

import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel

from neuron_opsd.config import EngineSettings, ModelSettings
from neuron_opsd.engines.base import Completion, Request, Sampling, check_finite, check_room
from neuron_opsd.engines.student_folders import StudentFolders, vllm_rank
from neuron_opsd.errors import EngineError
from neuron_opsd.model.device import dtype_of, name_of
from neuron_opsd.model.load import CausalLM, resolve_model

# Before vLLM is imported: nothing is reported, and it lives in this process.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


class VLLMEngine:
    """A vLLM engine on one model.

    Args:
        settings: `engine.*`.
        model: `model.*`, its name that of the model to serve.
        end_ids: Tokens that end a completion.
        seed: Of the engine. Each completion has a seed of its own.
        student: The model in training that the engine follows: its adapter where it has one, else all its weights.
        adapter: The folder of a published adapter, to sample with throughout.
        lora_rank: The largest rank of an adapter.
    """

    def __init__(
        self,
        settings: EngineSettings,
        model: ModelSettings,
        end_ids: Sequence[int],
        *,
        seed: int = 0,
        student: CausalLM | None = None,
        adapter: Path | None = None,
        lora_rank: int = 0,
    ) -> None:
        self.vllm = _import_vllm()
        self.settings, self.end_ids, self.student = settings, sorted(end_ids), student
        self.dtype = name_of(dtype_of(model))
        self.folders = StudentFolders() if student is not None else None
        self.adapter: Any = None
        is_on_gpu = self.vllm.platforms.current_platform.is_cuda_alike()
        self.sleeps, self.is_asleep = is_on_gpu and student is not None, False
        options: dict[str, Any] = {
            "model": resolve_model(model.name),
            "dtype": self.dtype,
            "seed": seed,
            "max_model_len": settings.max_model_len,
            "tensor_parallel_size": settings.tensor_parallel,
            "gpu_memory_utilization": settings.gpu_memory_share,
            "enforce_eager": settings.enforce_eager or not is_on_gpu,
            "enable_sleep_mode": self.sleeps,
            "trust_remote_code": model.trust_remote_code,
            "generation_config": "vllm",  # nothing is taken from the model's own generation settings
            "disable_log_stats": True,
        }
        if not is_on_gpu:
            # A prompt read in pieces sets its sampler's random state back, which a CPU's cannot: vLLM 0.32 ends there.
            options["enable_chunked_prefill"] = False
        if adapter is not None:
            self.adapter = self.vllm.lora.request.LoRARequest("published", 1, str(adapter))
        if adapter is not None or isinstance(student, PeftModel):
            options |= {"enable_lora": True, "max_lora_rank": vllm_rank(lora_rank)}
        self.llm = self._start(options)

    def _start(self, options: dict[str, Any]) -> Any:
        try:
            return self.vllm.LLM(**options)
        except (ValueError, RuntimeError) as error:  # too little memory, a length beyond the model's
            raise EngineError(
                f"vLLM does not start with {options['model']}: {error}. See engine.max_model_len "
                f"({options['max_model_len']}) and engine.gpu_memory_share ({options['gpu_memory_utilization']:g})."
            ) from error

    @staticmethod
    def identity() -> dict[str, str]:
        """Name and version, for the record."""
        return {"engine": "vllm", "vllm": _import_vllm().__version__}

    def refresh(self) -> None:
        """Hand the student over as it now is. The engine must be awake for it: its memory is elsewhere in sleep."""
        if self.student is None or self.folders is None:
            return
        self._wake_up()
        if isinstance(self.student, PeftModel):
            self._load_adapter(self.folders.write(self.student))
        else:
            self._reload_weights(self.student, self.folders)

    def _load_adapter(self, folder: Path) -> None:
        """A new id each time, because vLLM caches adapters, and what they computed, by id."""
        number = int(folder.name)
        if self.adapter is not None:
            self.llm.llm_engine.remove_lora(self.adapter.lora_int_id)
        self.adapter = self.vllm.lora.request.LoRARequest(f"student-{number}", number, str(folder))

    def _reload_weights(self, student: CausalLM, folders: StudentFolders) -> None:
        """All weights, in place: from memory, or through files where several GPUs' processes read them."""
        if self.settings.tensor_parallel == 1:
            given = {"weights_iterator": iter(student.state_dict().items())}
        else:
            given = {"weights_path": str(folders.write(student))}
        self.llm.collective_rpc("reload_weights", kwargs=given)
        self.llm.reset_prefix_cache()  # keys and values of the weights before

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (request index, completions) once all are there: vLLM orders the work itself.

        Raises:
            EngineError: a completion could not be written to its end, which vLLM would cut without a word, or the
                model's logits are NaN or infinite.
        """
        for request in requests:
            check_room(request, sampling, limit=self.settings.max_model_len, name="engine.max_model_len")
        places = [(i, seed) for i, request in enumerate(requests) for seed in request.seeds]
        self._wake_up()
        outputs = self.llm.generate(
            [self.vllm.TokensPrompt(prompt_token_ids=list(requests[i].prompt_ids)) for i, _ in places],
            [self._params(sampling, seed) for _, seed in places],
            use_tqdm=False,
            lora_request=self.adapter,
        )
        self._fall_asleep()
        done: dict[int, list[Completion]] = {}
        for (i, _), output in zip(places, outputs, strict=True):
            completion = _completion(output.outputs[0])
            check_finite(
                completion.log_probs,
                source=f"vLLM with model.dtype={self.dtype}",
                way_out="Set model.dtype=bfloat16 or float32, or use engine.name=hf, which names the layer.",
            )
            done.setdefault(i, []).append(completion)
        yield from done.items()

    def close(self) -> None:
        """Free the engine and what was written for it."""
        if self.folders is not None:
            self.folders.remove()
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        self.vllm.distributed.cleanup_dist_env_and_memory()

    def _fall_asleep(self) -> None:
        """Leave the card to the trainer: weights go to main memory, keys and values are forgotten."""
        if self.sleeps:
            self.llm.sleep(level=1)
            self.is_asleep = True

    def _wake_up(self) -> None:
        if self.is_asleep:
            self.llm.wake_up()
            self.is_asleep = False

    def _params(self, sampling: Sampling, seed: int) -> Any:
        return self.vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,  # 0: all
            max_tokens=sampling.max_new_tokens,
            seed=seed % 2**31,
            logprobs=0,  # that of the sampled token alone
            stop_token_ids=self.end_ids,
            detokenize=False,
        )


def _completion(output: Any) -> Completion:
    ids = tuple(output.token_ids)
    log_probs = tuple(float(row[token].logprob) for row, token in zip(output.logprobs, ids, strict=True))
    return Completion(token_ids=ids, log_probs=log_probs, finish_reason=str(output.finish_reason))


def _import_vllm() -> Any:
    try:
        vllm = importlib.import_module("vllm")
        for part in ("vllm.distributed", "vllm.lora.request", "vllm.platforms"):
            importlib.import_module(part)
    except ImportError as error:
        raise EngineError(
            f"engine.name=vllm needs vLLM, which cannot be imported here ({error}). Install neuron-opsd[vllm] "
            "(on a CPU: make venv-vllm, then .venv-vllm/bin/neuron-opsd), or use engine.name=hf."
        ) from error
    return vllm
