"""What a card does with the shapes of Qwen3-4B and 8B, with random weights: nothing is downloaded or carried.

    python experiments/gpu_shapes.py --output OUT            # on a GPU, within --minutes
    python experiments/gpu_shapes.py --output OUT --toy      # a tiny shape on a CPU, in seconds

    neurons      capture against the plain pass over the backbone
    training     a distillation step (LoRA, checkpointing) against the bare passes, and against TRL's SDFT where TRL is
    sampling     tokens a second of the transformers engine, with contexts as long as asked
    evaluation   probabilities of options after prompts as long as asked

Kinds alternate in each round, and a ratio is the median over rounds. Peaks are torch's on the card, beside the estimate
that a run prints. A row whose time had run out says "not measured", and one that did not fit says so.
"""

# ruff: noqa: T201
import argparse
import gc
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from neuron_opsd.config import Config, LoraSettings, NeuronSettings, TrainingSettings, load_config
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.option_scores import reply_log_probs
from neuron_opsd.model.teacher_weights import TeacherWeights
from neuron_opsd.model.token_loss import MEASURED
from neuron_opsd.model.trainable import trainable
from neuron_opsd.model.unembedding import backbone
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.records import Rollout
from neuron_opsd.training.items import LazyItems, TrainingItem
from neuron_opsd.training.opsd_trainer import OpsdTrainer
from neuron_opsd.training.train import training_arguments

QWEN3 = {
    "vocab_size": 151_936, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "max_position_embeddings": 40_960, "rope_theta": 1_000_000,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-4B": {**QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True},
    "Qwen3-8B": {**QWEN3, "hidden_size": 4096, "intermediate_size": 12_288, "tie_word_embeddings": False},
    "toy": {
        **QWEN3, "vocab_size": 300, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True,
    },
}  # fmt: skip
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Size:
    """What differs between a card and the toy."""

    device: torch.device
    dtype: torch.dtype
    prompt: int = 256
    teacher_prompt: int = 2_048
    rows: int = 16  # of sampling and evaluation
    new_tokens: int = 64  # sampled and timed, at the end of a context
    rounds: int = 3


@dataclass(slots=True)
class Row:
    """One line of the table."""

    shape: str
    tokens: int
    stage: str
    result: str = NOT_MEASURED
    peak_gb: float | None = None
    weights_gb: float | None = None
    estimate_gb: float | None = None  # of a run's own estimate for this stage


def main() -> None:
    """Measure, and write the table after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for shapes.md and shapes.json")
    parser.add_argument("--minutes", type=float, default=5.0, help="nothing new is begun after this")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["Qwen3-4B", "Qwen3-8B"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[2_048, 8_192])
    parser.add_argument("--toy", action="store_true", help="a tiny shape on the CPU")
    arguments = parser.parse_args()
    if not arguments.toy and not torch.cuda.is_available():
        sys.exit("gpu_shapes.py: torch sees no GPU here. Use --toy on a machine without one.")
    size = Size(torch.device("cuda", 0) if not arguments.toy else torch.device("cpu"), torch.bfloat16)
    if arguments.toy:
        arguments.shapes, arguments.tokens = ["toy"], [16, 32]
        size = Size(size.device, size.dtype, prompt=8, teacher_prompt=12, rows=2, new_tokens=4, rounds=2)
    deadline = time.monotonic() + 60 * arguments.minutes
    rows = [Row(shape, n, stage) for shape in arguments.shapes for n in arguments.tokens for stage in STAGES]
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(rows, arguments.output, size)
    for shape in arguments.shapes:
        model = None
        for row in (row for row in rows if row.shape == shape):
            if time.monotonic() > deadline:
                break
            model = model or random_model(shape, size)
            measure(row, model, size)
            write(rows, arguments.output, size)
        del model
        forget()
    for shape, tokens in dict.fromkeys((row.shape, row.tokens) for row in rows):  # last: they need no card
        found = estimates(shape, tokens, size) if time.monotonic() < deadline else {}
        for row in (row for row in rows if (row.shape, row.tokens) == (shape, tokens)):
            row.estimate_gb = found.get(row.stage)
    write(rows, arguments.output, size)
    print((arguments.output / "shapes.md").read_text(encoding="utf-8"))


def estimates(shape: str, tokens: int, size: Size) -> dict[str, float]:
    """GB that a run with these sizes is estimated to need, of the stages that it estimates."""
    if importlib.util.find_spec("neuron_opsd.memory") is None:
        return {}
    from neuron_opsd.memory.estimate import RunLengths, estimate_run  # pyright: ignore[reportMissingImports]

    config = load_config(
        "neuron_opsd",
        values={"model.name": shape, "questions.path": "none"},
        overrides=[
            "model.dtype=bfloat16", f"rollouts.max_new_tokens={size.new_tokens}", f"rollouts.batch_size={size.rows}",
            "neurons.batch_size=1", f"training.max_new_tokens={tokens}", "training.batch_size=1",
            "training.dtype=bfloat16", "training.micro_batch_size=1", "training.teacher=frozen",
            "training.lora={rank: 64, alpha: 128}", "training.trainer={gradient_checkpointing: true}",
        ],
    )  # fmt: skip
    architecture = AutoConfig.for_model("qwen3", **SHAPES[shape])

    def of(config: Config, prompt: int) -> dict[str, float]:
        lengths = RunLengths(prompt, 2, size.teacher_prompt, num_pool=size.rows, num_test=0)
        return {stage.stage: stage.peak / 1e9 for stage in estimate_run(config, architecture, lengths)}

    long = config.model_copy(
        update={"rollouts": config.rollouts.model_copy(update={"max_new_tokens": tokens})}
    )
    return {
        "sampling": of(config, tokens - size.new_tokens)["rollouts"],
        "neurons": of(long, size.prompt)["neurons"],
        "training": of(config, size.prompt)["training"],
    }


def random_model(shape: str, size: Size) -> PreTrainedModel:
    """The architecture with random weights, made on the device."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3", **SHAPES[shape])
    with size.device:
        return AutoModelForCausalLM.from_config(config, dtype=size.dtype).eval()


def measure(row: Row, model: PreTrainedModel, size: Size) -> None:
    """Fill one row; a stage that does not fit the card says so."""
    forget()
    if size.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    row.weights_gb = sum(p.nbytes for p in model.parameters()) / 1e9
    try:
        row.result = STAGES[row.stage](model, row.tokens, size)
    except torch.OutOfMemoryError:
        row.result = "does not fit"
    if size.device.type == "cuda":
        row.peak_gb = torch.cuda.max_memory_allocated() / 1e9


def neurons(model: PreTrainedModel, tokens: int, size: Size) -> str:
    """Capture / plain."""
    ids = draw(model, size.prompt + tokens)
    rollout = Rollout(
        question_id="q", rollout_index=0, choice_order=(), prompt_ids=ids[: size.prompt],
        completion_ids=ids[size.prompt :], token_log_probs=(), finish_reason="stop", reply="", answer=None,
    )  # fmt: skip
    inputs = torch.tensor([ids], device=size.device)

    @torch.inference_mode()
    def plain() -> None:
        backbone(model)(input_ids=inputs, use_cache=False)

    times = alternate(
        {
            "plain": plain,
            "capture": lambda: list(capture_neurons(model, TOKENIZER, [rollout], NeuronSettings())),
        },
        size,
    )
    return f"capture / plain {ratio(times, 'capture', 'plain')}, {tokens / median(times['capture']):,.0f} tokens/s"


def training(model: PreTrainedModel, tokens: int, size: Size) -> str:
    """Ours / bare, and ours / SDFT where TRL is there. The adapter is taken off again."""
    settings = TrainingSettings(
        lora=LoraSettings(rank=64, alpha=128), teacher="frozen", batch_size=1, micro_batch_size=1,
        max_new_tokens=tokens,
    )  # fmt: skip
    item = TrainingItem(
        "q", draw(model, size.prompt), draw(model, size.teacher_prompt), seed=0,
        completion_ids=draw(model, tokens), finish_reason="stop",
    )  # fmt: skip
    student = trainable(model, settings, seed=0)
    student.gradient_checkpointing_enable({"use_reentrant": False})
    student.enable_input_require_grads()
    try:
        steps = {"bare": bare_step(student, item, size), "ours": our_step(student, item, settings, size)}
        times = alternate(steps, size)
    finally:
        student.gradient_checkpointing_disable()
        student.unload()
        model.requires_grad_(False).eval()
    told = f"ours / bare {ratio(times, 'ours', 'bare')}, {tokens / median(times['ours']):,.0f} completion tokens/s"
    if importlib.util.find_spec("trl") is None:
        return f"{told}; SDFT: {NOT_MEASURED} (no trl here)"
    return f"{told}; ours / SDFT {median(times['ours']) / sdft_seconds(model, item, size):.2f} (one after the other)"


def bare_step(student: Any, item: TrainingItem, size: Size) -> Callable[[], None]:
    """The teacher's forward pass, the student's forward and backward pass, heads at the completion; no loss."""
    own, others = (
        torch.tensor([[*prompt, *item.completion_ids]], device=size.device)
        for prompt in (item.student_ids, item.teacher_ids)
    )
    keep = len(item.completion_ids) + 1

    def step() -> None:
        student.train()
        with torch.no_grad(), student.disable_adapter():
            student(input_ids=others, use_cache=False, logits_to_keep=keep)
        logits = student(input_ids=own, use_cache=False, logits_to_keep=keep).logits
        logits.backward(torch.ones_like(logits))
        student.zero_grad()

    return step


def our_step(student: Any, item: TrainingItem, settings: TrainingSettings, size: Size) -> Callable[[], None]:
    """The trainer's own loss, and the backward pass."""
    arguments = training_arguments(
        settings, folder=Path(tempfile.mkdtemp()), num_steps=1, seed=0, device=size.device
    )
    trainer = OpsdTrainer(
        model=student, args=arguments, items=LazyItems(1, lambda i: item),
        make_engine=lambda: HFEngine(student, TOKENIZER), settings=settings,
        teacher=TeacherWeights(student, kind="frozen", ema_rate=0.01),
    )  # fmt: skip
    count = torch.tensor(len(item.completion_ids), device=size.device)

    def step() -> None:
        student.train()
        trainer.sums = torch.zeros(1 + len(MEASURED), device=size.device)
        trainer.compute_loss(student, [item], num_items_in_batch=count).backward()
        student.zero_grad()

    return step


def sdft_seconds(model: PreTrainedModel, item: TrainingItem, size: Size) -> float:
    """TRL's SDFT on the same ids, by the benchmark's own code."""
    sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("benchmarks", "tests")]
    import training as bench  # pyright: ignore[reportMissingImports]
    from helpers import build_tiny_tokenizer  # pyright: ignore[reportMissingImports]

    bench.NUM_ROLLOUTS = 1
    options = argparse.Namespace(
        rank=64, device=size.device.type, lengths=[len(item.completion_ids)], checkpointing=True
    )
    step = bench._sdft(model, build_tiny_tokenizer(), [item], "lora", options)
    return median(alternate({"sdft": step}, size)["sdft"])


def sampling(model: PreTrainedModel, tokens: int, size: Size) -> str:
    """Tokens a second at the end of contexts of `tokens`, reading them included and apart."""
    engine = HFEngine(model, TOKENIZER, batch_size=size.rows)
    engine.end_ids = torch.tensor([-1], device=size.device)  # every completion gets its full length
    requests = [
        Request(prompt_ids=draw(model, tokens - size.new_tokens, seed=i), seeds=(i,))
        for i in range(size.rows)
    ]

    def run(count: int) -> Callable[[], None]:
        return lambda: list(engine.generate(requests, Sampling(temperature=1.0, max_new_tokens=count)))

    times = alternate({"prompts": run(1), "all": run(size.new_tokens)}, size)
    seconds = max(median(times["all"]) - median(times["prompts"]), 1e-9)
    speed = size.rows * (size.new_tokens - 1) / seconds
    return f"{speed:,.0f} tokens/s of {size.rows} completions; prompts {median(times['prompts']):.1f} s"


def evaluation(model: PreTrainedModel, tokens: int, size: Size) -> str:
    """Prompts a second whose options are scored."""
    prompts = [draw(model, tokens, seed=i) for i in range(size.rows)]
    replies = [[(1,), (2,), (3,), (4,)]] * size.rows
    times = alternate({"options": lambda: reply_log_probs(model, prompts, replies, batch_size=4)}, size)
    return f"{size.rows / median(times['options']):.1f} prompts/s"


STAGES: dict[str, Callable[[PreTrainedModel, int, Size], str]] = {
    "neurons": neurons, "training": training, "sampling": sampling, "evaluation": evaluation,
}  # fmt: skip
TOKENIZER: Any = SimpleNamespace(eos_token_id=0, added_tokens_decoder={})  # no text is read or written


def draw(model: PreTrainedModel, count: int, *, seed: int = 0) -> tuple[int, ...]:
    """Random token ids."""
    state = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(5, model.config.vocab_size, (count,), generator=state).tolist())


def alternate(steps: dict[str, Callable[[], object]], size: Size) -> dict[str, list[float]]:
    """Seconds of each kind, round by round; the first round warms up and is not counted."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(size.rounds + 1):
        for name, step in steps.items():
            synchronise(size)
            start = time.perf_counter()
            step()
            synchronise(size)
            if i:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> str:
    """The median over rounds."""
    return f"{median(a / b for a, b in zip(times[one], times[other], strict=True)):.2f}"


def synchronise(size: Size) -> None:
    """Wait for the card."""
    if size.device.type == "cuda":
        torch.cuda.synchronize()


def forget() -> None:
    """Give back what only cycles and torch's own store hold."""
    gc.collect()
    torch.cuda.empty_cache()


def write(rows: list[Row], folder: Path, size: Size) -> None:
    """The table of docs/gpu.md, and the same as JSON."""
    where = torch.cuda.get_device_name(0) if size.device.type == "cuda" else "CPU"
    (folder / "shapes.json").write_text(
        json.dumps({"device": where, "rows": [asdict(row) for row in rows]}, indent=1)
    )
    (folder / "shapes.md").write_text("\n".join(lines(rows, where)) + "\n", encoding="utf-8")


def lines(rows: list[Row], where: str) -> Iterator[str]:
    """Markdown."""
    yield f"{where}, torch {torch.__version__}, random weights in bfloat16"
    yield ""
    yield "| shape | tokens | stage | result | peak, GB | of which weights | estimate |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        peak, weights, estimate = (
            NOT_MEASURED if value is None else f"{value:.1f}"
            for value in (row.peak_gb, row.weights_gb, row.estimate_gb)
        )
        yield f"| {row.shape} | {row.tokens:,} | {row.stage} | {row.result} | {peak} | {weights} | {estimate} |"


if __name__ == "__main__":
    main()
