"""What the engine asks of vLLM, in order, on a GPU that is not there: a stand-in notes the calls."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from peft import LoraConfig, get_peft_model

from helpers import build_tiny_model, build_tiny_tokenizer
from neuron_opsd.config import EngineSettings, ModelSettings, load_config
from neuron_opsd.engines import choose, vllm
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.errors import ConfigError, EngineError
from neuron_opsd.run.runners import ProcessRunner
from neuron_opsd.run.session import Run
from neuron_opsd.store.run_folder import RunFolder

SAMPLING = Sampling(temperature=1.0, max_new_tokens=2)
REQUESTS = [Request(prompt_ids=(5, 6), seeds=(1,))]


def stand_in(calls: list[str], *, is_gpu: bool, log_prob: float = -1.0) -> SimpleNamespace:
    def noted(name, result=None):
        return lambda *args, **kwargs: (calls.append(name), result)[1]

    sampled = SimpleNamespace(
        token_ids=[7], logprobs=[{7: SimpleNamespace(logprob=log_prob)}], finish_reason="stop"
    )
    llm = SimpleNamespace(
        generate=noted("generate", [SimpleNamespace(outputs=[sampled])]),
        sleep=noted("sleep"),
        wake_up=noted("wake up"),
        collective_rpc=noted("reload weights"),
        reset_prefix_cache=noted("forget keys and values"),
        llm_engine=SimpleNamespace(
            remove_lora=noted("remove adapter"), engine_core=SimpleNamespace(shutdown=noted("shut down"))
        ),
    )
    return SimpleNamespace(
        LLM=lambda **options: (calls.append(f"start, sleep mode {options['enable_sleep_mode']}"), llm)[1],
        TokensPrompt=dict,
        SamplingParams=dict,
        platforms=SimpleNamespace(current_platform=SimpleNamespace(is_cuda_alike=lambda: is_gpu)),
        lora=SimpleNamespace(
            request=SimpleNamespace(
                LoRARequest=lambda name, number, path: SimpleNamespace(lora_int_id=number, path=path)
            )
        ),
        distributed=SimpleNamespace(cleanup_dist_env_and_memory=noted("clean up")),
    )


def calls_of_two_steps(monkeypatch, tmp_path, student, *, is_gpu: bool) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(vllm, "_import_vllm", lambda: stand_in(calls, is_gpu=is_gpu))
    student.save_pretrained(tmp_path / "model")
    engine = vllm.VLLMEngine(
        EngineSettings(name="vllm"),
        ModelSettings(name=str(tmp_path / "model"), dtype="float32"),
        [2],
        student=student,
    )
    for _ in range(2):
        engine.refresh()
        ((_, (completion,)),) = engine.generate(REQUESTS, SAMPLING)
        assert completion.token_ids == (7,)
    engine.close()
    return calls


def with_adapter():
    return get_peft_model(build_tiny_model(), LoraConfig(r=2, target_modules=["q_proj"]))


@pytest.mark.parametrize(
    ("saved", "served"),
    [
        ({"config.json": '{"dtype": "float32"}'}, ("trained", "float32", None)),
        ({"adapter_config.json": "{}"}, ("base", "bfloat16", "trained")),
    ],
)
def test_a_trained_model_is_sampled_as_it_was_published(monkeypatch, tmp_path, saved, served):
    """A merged model in its own dtype, not that of the settings; an adapter on the run's base."""
    started: dict = {}
    vllm_itself = stand_in([], is_gpu=True)
    start = vllm_itself.LLM
    vllm_itself.LLM = lambda **options: (started.update(options), start(**options))[1]
    monkeypatch.setattr(vllm, "_import_vllm", lambda: vllm_itself)
    build_tiny_model().save_pretrained(tmp_path / "base")
    (tmp_path / "trained").mkdir()
    for name, text in saved.items():
        (tmp_path / "trained" / name).write_text(text)
    values = {"model.name": str(tmp_path / "base"), "model.dtype": "bfloat16", "questions.path": "pool.jsonl"}
    config = load_config("neuron_opsd", values={**values, "engine.name": "vllm"})
    engine = choose.other_engine(config, build_tiny_tokenizer(), model_name=str(tmp_path / "trained"))
    adapter = None if engine.adapter is None else Path(engine.adapter.path).name
    assert (Path(started["model"]).name, started["dtype"], adapter) == served
    assert started.get("enable_lora", False) == (adapter is not None)


def test_on_a_gpu_it_is_awake_whenever_it_is_asked_for_something(monkeypatch, tmp_path):
    assert calls_of_two_steps(monkeypatch, tmp_path, with_adapter(), is_gpu=True) == [
        "start, sleep mode True",
        *("generate", "sleep"),  # awake from the start
        *("wake up", "remove adapter", "generate", "sleep"),
        *("shut down", "clean up"),
    ]


def test_all_weights_are_reloaded_awake_and_what_they_computed_is_forgotten(monkeypatch, tmp_path):
    assert calls_of_two_steps(monkeypatch, tmp_path, build_tiny_model(), is_gpu=True) == [
        "start, sleep mode True",
        *("reload weights", "forget keys and values", "generate", "sleep"),
        *("wake up", "reload weights", "forget keys and values", "generate", "sleep"),
        *("shut down", "clean up"),
    ]


def test_on_a_cpu_it_never_sleeps(monkeypatch, tmp_path):
    assert calls_of_two_steps(monkeypatch, tmp_path, with_adapter(), is_gpu=False) == [
        "start, sleep mode False",
        *("generate", "remove adapter", "generate"),
        *("shut down", "clean up"),
    ]


def test_several_training_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = make_config(tmp_path, "engine.name=vllm")
    with pytest.raises(EngineError, match=r"follows a student in one process. accelerate launch started 2"):
        choose.other_engine(
            config, build_tiny_tokenizer(), model_name=config.model.name, student=with_adapter()
        )


def test_several_gpus_for_one_model_are_refused_in_workers_that_have_one(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config(make_config(tmp_path, "engine.name=vllm", "engine.tensor_parallel=2"))
    with pytest.raises(
        ConfigError, match=r"engine.tensor_parallel is 2.* CUDA_VISIBLE_DEVICES=.*--shards K/N"
    ):
        Run(folder, runner=ProcessRunner(2))
    Run(folder)


def test_a_server_is_refused_for_training_all_weights_before_any_work(tmp_path):
    server = ("engine.name=server", "engine.url=http://127.0.0.1:9/v1", "training.method=full")
    with pytest.raises(ConfigError, match=r"training.method=full has none. Use training.method=lora"):
        make_config(tmp_path, *server)
    make_config(tmp_path, *server, "training.objective=none")


def make_config(tmp_path, *overrides: str):
    build_tiny_model().save_pretrained(tmp_path / "model")
    build_tiny_tokenizer().save_pretrained(tmp_path / "model")
    values = {"model.name": str(tmp_path / "model"), "questions.path": "pool.jsonl"}
    return load_config("neuron_opsd", overrides=overrides, values=values)


def test_what_vllm_would_cut_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(vllm, "_import_vllm", lambda: stand_in([], is_gpu=True))
    build_tiny_model().save_pretrained(tmp_path / "model")
    settings = EngineSettings(name="vllm", max_model_len=3)
    engine = vllm.VLLMEngine(settings, ModelSettings(name=str(tmp_path / "model"), dtype="float32"), [2])
    with pytest.raises(EngineError, match=r"2 tokens and 2 new ones exceed engine.max_model_len of 3"):
        list(engine.generate(REQUESTS, SAMPLING))


def test_infinite_logits_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(vllm, "_import_vllm", lambda: stand_in([], is_gpu=True, log_prob=float("nan")))
    build_tiny_model().save_pretrained(tmp_path / "model")
    model = ModelSettings(name=str(tmp_path / "model"), dtype="float16")
    engine = vllm.VLLMEngine(EngineSettings(name="vllm", max_model_len=9), model, [2])
    with pytest.raises(EngineError, match=r"model.dtype=float16 gives .* nan: .*Set model.dtype=bfloat16"):
        list(engine.generate(REQUESTS, SAMPLING))


@pytest.mark.parametrize(("given", "expected"), [((), 1234), (("engine.max_model_len=99",), 99)])
def test_its_length_is_what_the_run_needs_or_what_was_asked_for(monkeypatch, tmp_path, given, expected):
    """By default vLLM would set a cache aside for all that the model can read."""
    module, asked = stand_in([], is_gpu=True), {}
    start = module.LLM
    module.LLM = lambda **options: (asked.update(options), start(**options))[1]
    monkeypatch.setattr(vllm, "_import_vllm", lambda: module)
    config = make_config(tmp_path, "engine.name=vllm", *given)
    name = config.model.name
    choose.other_engine(config, build_tiny_tokenizer(), model_name=name, longest_text=lambda: 1234)
    assert asked["max_model_len"] == expected


def test_a_vllm_that_does_not_start_is_no_traceback(monkeypatch, tmp_path):
    def refuse(**options):
        raise ValueError("No available memory for the cache blocks")

    module = stand_in([], is_gpu=True)
    module.LLM = refuse
    monkeypatch.setattr(vllm, "_import_vllm", lambda: module)
    build_tiny_model().save_pretrained(tmp_path / "model")
    with pytest.raises(EngineError, match=r"No available memory.*engine.gpu_memory_share \(0.5\)"):
        vllm.VLLMEngine(
            EngineSettings(name="vllm"), ModelSettings(name=str(tmp_path / "model"), dtype="float32"), [2]
        )
