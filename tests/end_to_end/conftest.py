"""A tiny random llama with the first tokens and the chat template of SmolLM2's tokenizer, and small question files."""

import fcntl
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from end_to_end.fork_run import WholeRun, make_whole_run
from end_to_end.tiny_run import SMALL
from neuron_opsd.config import ModelSettings
from neuron_opsd.model.load import load_tokenizer

# Of SmolLM2's 49,152: a run of a tiny model spends its time on the rows of its vocabulary.
NUM_TOKENS = 2048


def small_tokenizer() -> PreTrainedTokenizerFast:
    """SmolLM2's, without the merges that came late."""
    tokenizer = load_tokenizer(ModelSettings(name="embedded:smollm2-135m"))
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = {token: i for token, i in inner["model"]["vocab"].items() if i < NUM_TOKENS}
    merges = [pair for pair in inner["model"]["merges"] if "".join(pair) in vocab]
    inner["model"] |= {"vocab": vocab, "merges": merges}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(inner))
    return tokenizer


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = small_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lettered_model_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, but what it says is nearly always one of the letters A to D alone: answers can be read, and agree."""
    folder = tmp_path_factory.mktemp("lettered-model")
    shutil.copytree(tiny_model_folder, folder, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = LlamaConfig.from_pretrained(folder)
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "2 + 2?"}], add_generation_prompt=True)
    letters = [tokenizer.encode(letter)[0] for letter in "ABCD"]
    with torch.no_grad():
        rows = torch.tensor([[*asked["input_ids"], letter] for letter in letters])
        state, after = model.model(rows).last_hidden_state[:, -2:].mean(dim=0)
        after = after - (after @ state) / (state @ state) * state
        model.lm_head.weight.zero_()
        model.lm_head.weight[tokenizer.eos_token_id] = 4 * after / after.norm()
        # 17 nats above the rest, each letter with some of its own: prompts end alike, and so do their states
        model.lm_head.weight[letters] = 3 * state / state.norm() + 0.5 * torch.randn(4, 32)
    model.save_pretrained(folder)
    return folder


def write_questions(path: Path, domain: str, count: int) -> Path:
    state = random.Random(domain)
    rows = []
    for i in range(count):
        a, b = state.randint(2, 99), state.randint(2, 99)
        choices = [str(a + b + shift) for shift in (0, 1, 2, 3)]
        state.shuffle(choices)
        rows.append(
            {"question_id": f"{domain}-{i}", "domain": domain, "question": f"{domain}: what is {a} + {b}?"}
        )
        rows[-1]["choices"] = choices
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def question_files(tmp_path: Path) -> list[Path]:
    return [
        write_questions(tmp_path / "sums.jsonl", "sums", 20),
        write_questions(tmp_path / "other.jsonl", "other", 6),
    ]


@pytest.fixture
def command(tiny_model_folder: Path, question_files: list[Path]) -> list[str]:
    return command_for(tiny_model_folder, *question_files)


def command_for(model: Path, pool: Path, cross: Path) -> list[str]:
    files = ["--model", str(model), "--questions", str(pool), "--cross", str(cross)]
    return ["run", "neuron_opsd", *files, *SMALL]


@pytest.fixture
def shared_stages(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test has made from the same inputs is taken from there: of the same rollouts there are many runs."""
    monkeypatch.setenv("NEURON_OPSD_STAGES", str(tmp_path_factory.getbasetemp() / "stages"))


@pytest.fixture(scope="session")
def whole_run(
    request: pytest.FixtureRequest, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> WholeRun:
    """An uninterrupted run, to compare others with. Read only. pytest's processes share one."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if hasattr(request.config, "workerinput") else folder) / "whole"
    folder.mkdir(exist_ok=True)
    made = folder / "made.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            pool = write_questions(folder / "sums.jsonl", "sums", 20)
            cross = write_questions(folder / "other.jsonl", "other", 6)
            run = make_whole_run(command_for(tiny_model_folder, pool, cross), folder / "run")
            made.write_text(json.dumps([run.command, run.seconds]))
    command, seconds = json.loads(made.read_text())
    return WholeRun(command, folder / "run", seconds)
