"""Cost of a distillation step: ours against the bare passes and against TRL's SDFTTrainer.

    python benchmarks/training.py                      # everything, some ten minutes on two cores
    python benchmarks/training.py --only step          # or teacher, orders, memory, generation

The same model, dtype, threads, batch, token ids, loss (reverse KL over the full vocabulary, frozen teacher) and
gradient checkpointing everywhere. The kinds alternate within each round, so that whatever else the machine does meets
all of them; ratios are medians over rounds of the ratio within a round. Times are the process's own on a CPU, so what
else the machine does takes no part. Bare is what no trainer can do without: the
teacher's forward pass, the student's forward and backward pass, with the heads at the completion's places and no loss.
With --device cuda, memory is what torch allocates there; without TRL, SDFTTrainer is left out.
SDFTTrainer cuts prompts at 512 tokens; here it is given the ids, so that all score the same tokens.
"""

# ruff: noqa: T201
import argparse
import copy
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from neuron_opsd.config import LoraSettings, ModelSettings, TrainingSettings
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.load import load_model
from neuron_opsd.model.order_average import OrderView, view_states
from neuron_opsd.model.shared_prompt import scoring_states
from neuron_opsd.model.teacher_weights import TeacherWeights
from neuron_opsd.model.token_loss import MEASURED
from neuron_opsd.model.trainable import trainable
from neuron_opsd.model.unembedding import logits_from_hidden
from neuron_opsd.training.items import LazyItems, TrainingItem
from neuron_opsd.training.opsd_trainer import OpsdTrainer
from neuron_opsd.training.train import training_arguments

Step = Callable[[], object]
RATIOS = [("ours", "bare"), ("sdft", "ours"), ("sdft", "bare"), ("orders", "separate"), ("orders", "one")]
NUM_ROLLOUTS = 4
NUM_ORDERS, NUM_CHOICE_TOKENS = 4, 40


def main() -> None:
    """Run the chosen parts."""
    parts: dict[str, Callable[[argparse.Namespace], None]] = {
        "step": measure_step,
        "teacher": measure_teacher,
        "orders": measure_orders,
        "memory": measure_memory,
        "generation": measure_generation,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=parts)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--methods", nargs="+", default=["lora", "full"], choices=["lora", "full"])
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=60, help="rounds end early once a case took this long"
    )
    parser.add_argument("--student-prompt", type=int, default=150)
    parser.add_argument("--teacher-prompt", type=int, default=1500)
    parser.add_argument("--lengths", nargs="+", type=int, default=[64, 512])
    parser.add_argument("--order-lengths", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--chunk-tokens", type=int, default=TrainingSettings().loss_chunk_tokens)
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[49_152, 151_936])
    parser.add_argument("--layers", type=int, default=4, help="of the model whose memory is measured")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(_peak_of(arguments))
        return
    for name, measure in parts.items():
        if arguments.only in (None, name):
            measure(arguments)


def measure_step(arguments: argparse.Namespace) -> None:
    """Loss step: unshared teacher prompts as long as the student's, so that only the step itself differs."""
    model, tokenizer = _load(arguments)
    for method in arguments.methods:
        for length in arguments.lengths:
            items = _items(
                model, arguments.student_prompt, 2 * arguments.student_prompt, length, shared=False
            )
            steps = _steps(model, tokenizer, items, method, arguments)
            name = f"step, {method}, 4 x {length} completion tokens, prompts {arguments.student_prompt}"
            _report(f"{name} and {2 * arguments.student_prompt}", steps, arguments)


def measure_teacher(arguments: argparse.Namespace) -> None:
    """Teacher scoring alone, then the whole step: one question of ten demonstrations, four rollouts."""
    model, tokenizer = _load(arguments)
    for length in arguments.lengths:
        items = _items(model, arguments.student_prompt, arguments.teacher_prompt, length, shared=True)
        what = f"{NUM_ROLLOUTS} x {length} completion tokens after {arguments.teacher_prompt} shared ones"
        _report(f"teacher scoring, {what}", _teacher_scorings(model, tokenizer, items, arguments), arguments)
        steps = _steps(model, tokenizer, items, "lora", arguments)
        _report(f"whole step, lora, {what}", steps, arguments)


def measure_orders(arguments: argparse.Namespace) -> None:
    """The teacher's mean over the orders of a question's choices, against a pass for each, and against one pass."""
    model, _ = _load(arguments)
    for length in arguments.order_lengths:
        views, completion = _orders(arguments, length)
        prompts = [view.prompt_ids for view in views]

        def read(prompts: list[tuple[int, ...]], completion: tuple[int, ...] = completion) -> None:
            for prompt in prompts:
                scoring_states(model, [prompt], [completion])

        steps: dict[str, Step] = {
            "orders": lambda views=views, completion=completion: view_states(model, [views], [completion]),
            "separate": lambda prompts=prompts, read=read: read(prompts),
            "one": lambda prompts=prompts, read=read: read(prompts[:1]),
        }
        what = f"{len(views)} orders, {length} completion tokens after {arguments.teacher_prompt}"
        _report(f"{what}, of which {NUM_CHOICE_TOKENS} are the choices", steps, arguments)


def _orders(arguments: argparse.Namespace, length: int) -> tuple[list[OrderView], tuple[int, ...]]:
    """Prompts that differ in their last tokens alone, and a completion."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 40_000, (arguments.teacher_prompt + length,), generator=random).tolist()
    prompt, completion = ids[: arguments.teacher_prompt], ids[arguments.teacher_prompt :]
    start, choices = prompt[:-NUM_CHOICE_TOKENS], prompt[-NUM_CHOICE_TOKENS:]
    turned = [
        choices[place:] + choices[:place]
        for place in range(0, NUM_CHOICE_TOKENS, NUM_CHOICE_TOKENS // NUM_ORDERS)
    ]
    return [OrderView((*start, *end)) for end in turned], tuple(completion)


def measure_memory(arguments: argparse.Namespace) -> None:
    """Peak of one step over weights, optimiser and idle buffers, each kind in a process of its own."""
    for method in arguments.methods:
        for vocabulary in arguments.vocabularies:
            kinds = ("bare", "ours", "sdft") if _has_trl() else ("bare", "ours")
            peaks = {kind: _peak_in_process(kind, method, vocabulary) for kind in kinds}
            figures = ", ".join(f"{kind} +{peak:,.0f} MB" for kind, peak in peaks.items())
            ratio = f"; ours / sdft {peaks['ours'] / peaks['sdft']:.2f}" if "sdft" in peaks else ""
            print(
                f"memory, {method}, {arguments.layers} layers, vocabulary {vocabulary:,}, 4 x 512 completion tokens: "
                f"{figures}{ratio}",
                flush=True,
            )


def measure_generation(arguments: argparse.Namespace) -> None:
    """Sampling the four completions, which every figure above leaves out."""
    model, tokenizer = _load(arguments)
    items = _items(model, arguments.student_prompt, arguments.student_prompt, 1, shared=False)
    engine = HFEngine(model, tokenizer)
    engine.end_ids = torch.tensor([-1])  # every completion gets its full length
    requests = [Request(prompt_ids=item.student_ids, seeds=(item.seed,)) for item in items]
    for length in arguments.lengths:
        start = time.perf_counter()
        list(engine.generate(requests, Sampling(temperature=1.0, max_new_tokens=length)))
        print(f"generation, apart: 4 x {length} tokens in {time.perf_counter() - start:.1f} s", flush=True)


def _load(arguments: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_model(ModelSettings(name=arguments.model, dtype=arguments.dtype, device=arguments.device))


def _has_trl() -> bool:
    return importlib.util.find_spec("trl") is not None


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _items(
    model: PreTrainedModel, student_prompt: int, teacher_prompt: int, length: int, *, shared: bool
) -> list[TrainingItem]:
    """Four completions of random ids; `shared`: all of one question, else of four questions."""
    random = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(100, 40_000, (count,), generator=random).tolist())

    prompts = [(draw(student_prompt), draw(teacher_prompt)) for _ in range(1 if shared else NUM_ROLLOUTS)]
    return [
        TrainingItem(
            f"q{i}", *prompts[i % len(prompts)], seed=i, completion_ids=draw(length), finish_reason="length"
        )
        for i in range(NUM_ROLLOUTS)
    ]


def _steps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: list[TrainingItem],
    method: str,
    arguments: argparse.Namespace,
) -> dict[str, Step]:
    steps = {
        "bare": _bare(model, items, method, arguments),
        "ours": _ours(model, tokenizer, items, method, arguments),
    }
    return steps | ({"sdft": _sdft(model, tokenizer, items, method, arguments)} if _has_trl() else {})


def _settings(method: str, arguments: argparse.Namespace) -> TrainingSettings:
    return TrainingSettings(
        method=method,
        lora=LoraSettings(rank=arguments.rank, alpha=2 * arguments.rank),
        teacher="frozen",
        batch_size=NUM_ROLLOUTS,
        micro_batch_size=NUM_ROLLOUTS,
        loss_chunk_tokens=arguments.chunk_tokens,
    )


def _batch(items: list[TrainingItem], role: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [[*getattr(item, f"{role}_ids"), *item.completion_ids] for item in items]
    ids = torch.tensor(rows, device=device)
    return ids, torch.ones_like(ids)


def _bare(
    model: PreTrainedModel, items: list[TrainingItem], method: str, arguments: argparse.Namespace
) -> Step:
    """Both passes with plain transformers; full training keeps a second model as the teacher, as SDFT does."""
    student = trainable(copy.deepcopy(model), _settings(method, arguments), seed=0).train()
    teacher = copy.deepcopy(model).eval() if method == "full" else student
    if arguments.checkpointing:
        student.gradient_checkpointing_enable()
        student.enable_input_require_grads()
    keep = len(items[0].completion_ids) + 1
    (ids, mask), (teacher_ids, teacher_mask) = (
        _batch(items, role, model.device) for role in ("student", "teacher")
    )

    def step() -> None:
        with torch.no_grad():
            if method == "lora":
                with student.disable_adapter():
                    teacher(
                        input_ids=teacher_ids,
                        attention_mask=teacher_mask,
                        use_cache=False,
                        logits_to_keep=keep,
                    )
            else:
                teacher(
                    input_ids=teacher_ids, attention_mask=teacher_mask, use_cache=False, logits_to_keep=keep
                )
        logits = student(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=keep).logits
        logits.backward(torch.ones_like(logits))
        student.zero_grad()

    return step


def _ours(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: list[TrainingItem],
    method: str,
    arguments: argparse.Namespace,
) -> Step:
    settings = _settings(method, arguments)
    student = trainable(copy.deepcopy(model), settings, seed=0)
    folder = Path(tempfile.mkdtemp())
    trainer = OpsdTrainer(
        model=student,
        args=training_arguments(settings, folder=folder, num_steps=1, seed=0, device=model.device),
        items=LazyItems(NUM_ROLLOUTS, items.__getitem__),
        make_engine=lambda: HFEngine(student, tokenizer),
        teacher=TeacherWeights(student, kind="frozen", ema_rate=0.01),
        settings=settings,
    )
    _enable_checkpointing(student, arguments)
    num_tokens = torch.tensor(sum(len(item.completion_ids) for item in items), device=model.device)

    def step() -> None:
        trainer.sums = torch.zeros(1 + len(MEASURED), device=model.device)
        trainer.compute_loss(student, items, num_items_in_batch=num_tokens).backward()
        student.zero_grad()

    return step


def _sdft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: list[TrainingItem],
    method: str,
    arguments: argparse.Namespace,
) -> Step:
    trainer = _sdft_trainer(model, tokenizer, method, arguments)
    inputs = _sdft_inputs(items, model.device)

    def step() -> None:
        trainer.compute_loss(trainer.model, inputs).backward()
        trainer.model.zero_grad()

    return step


def _sdft_trainer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, method: str, arguments: argparse.Namespace
):
    """TRL's trainer with its defaults turned to the same loss; teacher_model_kind=base is the frozen teacher."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    lora = LoraConfig(
        r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    config = SDFTConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=arguments.device == "cpu",
        bf16=False,
        report_to=[],
        per_device_train_batch_size=NUM_ROLLOUTS,
        gradient_accumulation_steps=1,
        num_generations=NUM_ROLLOUTS,
        max_prompt_length=None,
        max_completion_length=max(arguments.lengths),
        distillation_mode="full_logits",
        distillation_alpha=1.0,
        distillation_is_clip=None,
        teacher_model_kind="base",
        gradient_checkpointing=arguments.checkpointing,
    )
    copied = copy.deepcopy(model)
    if method == "full":
        copied = _named(copied, tokenizer)
    trainer = SDFTTrainer(
        model=copied,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "a", "privileged_context": "b"}]),
        processing_class=tokenizer,
        peft_config=lora if method == "lora" else None,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    _enable_checkpointing(trainer.model, arguments)
    return trainer


def _named(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """SDFT loads its teacher by the model's name, so a model in memory has to lie on disk first."""
    folder = tempfile.mkdtemp()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype).to(model.device)


def _sdft_inputs(items: list[TrainingItem], device: torch.device) -> dict[str, torch.Tensor]:
    prompts = torch.tensor([item.student_ids for item in items], device=device)
    completions = torch.tensor([item.completion_ids for item in items], device=device)
    ids, mask = _batch(items, "teacher", device)
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": completions,
        "completion_mask": torch.ones_like(completions),
        "teacher_input_ids": ids,
        "teacher_attention_mask": mask,
    }


def _enable_checkpointing(model, arguments: argparse.Namespace) -> None:
    """What Trainer.train does first where gradient_checkpointing is set."""
    if arguments.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if hasattr(model, "enable_input_require_grads"):
            model.enable_input_require_grads()
    model.train()


def _teacher_scorings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: list[TrainingItem],
    arguments: argparse.Namespace,
) -> dict[str, Step]:
    def ours() -> None:
        prompts, completions = [item.teacher_ids for item in items], [item.completion_ids for item in items]
        with torch.no_grad():
            for hidden in scoring_states(model, prompts, completions).split(arguments.chunk_tokens):
                logits_from_hidden(model, hidden)

    if not _has_trl():
        return {"ours": ours}
    trainer = _sdft_trainer(model, tokenizer, "lora", arguments)
    inputs, length = _sdft_inputs(items, model.device), len(items[0].completion_ids)

    def sdft() -> None:
        with torch.no_grad(), trainer._get_teacher_context_for_self_distillation():
            trainer._forward_logits(
                trainer.teacher_model, inputs["teacher_input_ids"], inputs["teacher_attention_mask"], length
            )

    return {"ours": ours, "sdft": sdft}


def _report(name: str, steps: dict[str, Step], arguments: argparse.Namespace) -> None:
    """At least one round after the one that warms up, at most --rounds in --seconds."""
    times: list[dict[str, float]] = []
    began = time.perf_counter()
    while len(times) < 2 or (
        len(times) <= arguments.rounds and time.perf_counter() - began < arguments.seconds
    ):
        row = {}
        clock = time.perf_counter if arguments.device.startswith("cuda") else time.process_time
        for kind, step in steps.items():
            start = clock()
            step()
            _synchronise()
            row[kind] = clock() - start
        times.append(row)
    del times[0]  # it warmed up
    seconds = ", ".join(f"{kind} {median(row[kind] for row in times):.2f} s" for kind in steps)
    ratios = [
        f"{over} / {under} {median(row[over] / row[under] for row in times):.2f}"
        for over, under in RATIOS
        if {over, under} <= set(steps)
    ]
    print(f"{name}: {seconds}; {', '.join(ratios)} ({len(times)} rounds)", flush=True)


def _peak_in_process(kind: str, method: str, vocabulary: int) -> float:
    command = [sys.executable, __file__, *_without(sys.argv[1:], "--only", "--methods", "--vocabularies")]
    command += ["--memory-of", kind, "--methods", method, "--vocabularies", str(vocabulary)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _without(words: list[str], *options: str) -> list[str]:
    kept, skipping = [], False
    for word in words:
        if word.startswith("--"):
            skipping = word in options
        if not skipping:
            kept.append(word)
    return kept


def _peak_of(arguments: argparse.Namespace) -> float:
    """MB that one step takes beyond what lies in memory before it."""
    model, tokenizer = _load(arguments)
    model.config.num_hidden_layers = arguments.layers
    model.config.vocab_size = arguments.vocabularies[0]
    small = AutoModelForCausalLM.from_config(model.config).to(model.device, model.dtype)
    del model
    items = _items(small, arguments.student_prompt, 2 * arguments.student_prompt, 512, shared=False)
    makers = {
        "bare": lambda: _bare(small, items, arguments.methods[0], arguments),
        "ours": lambda: _ours(small, tokenizer, items, arguments.methods[0], arguments),
        "sdft": lambda: _sdft(small, tokenizer, items, arguments.methods[0], arguments),
    }
    step = makers[arguments.memory_of]()
    return peak_over_start(step)


def peak_over_start(step: Step) -> float:
    """MB of memory at its highest during the step, over what was there before it: torch's on a GPU, else resident."""
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - start) / 1e6
    page = os.sysconf("SC_PAGE_SIZE")
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * page / 1e6  # noqa: E731
    before = highest = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    step()
    done.set()
    watcher.join()
    return highest - before


if __name__ == "__main__":
    main()
