"""The trained model as files, and how much of what was learned they keep.

An adapter is the published form of record: it is saved as it was trained. The merged model beside it is made in
float32, because the small changes of an adapter round away in bfloat16. It is saved in bfloat16 only where a
measurement on held-out prompts shows that less than 1 % is lost:

    lost = mean KL(student || published)      learned = mean KL(student || base)      kept = 1 - lost / learned

The texts are the student's own replies to questions that training did not use, so no gold answer takes part. Student
and base compute in float32, the published model in the dtype that it is saved and evaluated in.
"""

import copy
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.hooks import remove_hook_from_module
from peft import PeftModel
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.base_kl import KeptStates, Texts, keep_states, kl_to_model
from neuron_opsd.model.device import name_of
from neuron_opsd.model.environment import free_memory
from neuron_opsd.model.load import CausalLM, end_token_ids
from neuron_opsd.model.locate import ADAPTER_CONFIG, ADAPTER_FOLDER
from neuron_opsd.model.unembedding import divide_logits
from neuron_opsd.progress import track
from neuron_opsd.store.files import JsonDict, dump_json, read_json, sync_tree, write_text
from neuron_opsd.training.checkpoints import saving
from neuron_opsd.training.entropy_match import student_temperature

logger = logging.getLogger(__name__)

NUM_PROMPTS = 16  # held-out questions. With replies this short, seconds for a small model
ENTROPY_PROMPTS = 64  # where an entropy is matched on them. One token of each is enough for two decimals
REPLY_TOKENS = 64
MAX_LOST = 0.01  # of what was learned, for a dtype narrower than float32
MAX_SHARE = 0.8  # of a card's free memory, for float32 weights: the measurement needs some, too

Published = dict[str, Any]  # how the model was published: for the manifest, the report and the card


def publish(
    student: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    save: str,
    base_config: PretrainedConfig,
    prompts: Sequence[Sequence[int]],
    num_held_out: int,
    max_new_tokens: int = REPLY_TOKENS,
    entropy_at: float | None = None,
    base_name: str | None = None,
    base_json: JsonDict | None = None,
) -> Published:
    """Write the trained model as safetensors that plain transformers loads, by rename, whole or not at all.

    Args:
        student: The trained model, with its adapter if it has one. Merging changes it in place.
        tokenizer: Saved beside it with the chat template.
        folder: The folder to make. One that is there is replaced.
        save: "merged" (the adapter lies beside it, in a folder of its own), or "adapter" for the adapter alone.
        base_config: The base model's configuration, untouched by a trainer.
        prompts: Of questions that training did not use, as far as there are any. Each leaves room for a reply.
        num_held_out: How many of them it did not use.
        max_new_tokens: Of a reply in training. The measurement's are no longer.
        entropy_at: The sampling temperature at which the merged model is made as sure as the base. The adapter, which
            is not, is left out then. None: the model is as sure as training left it.
        base_name: The base model's name on the hub, for the adapter's configuration. None: it is not there.
        base_json: The base model's config.json. None: there is no such file.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    end_ids = sorted(end_token_ids(student, tokenizer))
    if student.generation_config is not None:
        student.generation_config.eos_token_id = end_ids if len(end_ids) > 1 else end_ids[0]
    with saving(folder):
        if not isinstance(student, PeftModel):
            _save(student, temporary, base_config)
            published: Published = {"form": "full", "dtype": name_of(_dtype_of(student))}
        elif save == "adapter":
            _save_adapter(student, temporary, base_name)
            published = {"form": "adapter", "dtype": None}
        else:
            if entropy_at is None:
                _save_adapter(student, temporary / ADAPTER_FOLDER, base_name)
            num_passes = 4 if _dtype_of(student) == torch.float32 else 5
            with track("publishing", total=num_passes, unit="passes") as progress:
                published = _save_merged(
                    student, tokenizer, temporary, base_config, prompts,
                    max_new_tokens=min(max_new_tokens, REPLY_TOKENS), entropy_at=entropy_at, on_pass=progress.advance,
                )  # fmt: skip
            published["num_held_out"] = min(num_held_out, published["num_prompts"])  # they come first
        tokenizer.save_pretrained(str(temporary))
        if base_json and published["dtype"]:
            _write_config(temporary / "config.json", base_json, published["dtype"])
        sync_tree(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    return published


def _save_adapter(student: PeftModel, folder: Path, base_name: str | None) -> None:
    for config in student.peft_config.values():
        # PEFT holds names in a set, and would write them in an order that differs from process to process.
        config.target_modules = sorted(config.target_modules)  # pyright: ignore[reportAttributeAccessIssue]
    # Embeddings are not trained. "auto", the default, would look the base model up on the hub.
    student.save_pretrained(str(folder), save_embedding_layers=False)
    # PEFT writes the folder that the base was loaded from, which nobody else has.
    named = (read_json(folder / ADAPTER_CONFIG) or {}) | {"base_model_name_or_path": base_name}
    write_text(folder / ADAPTER_CONFIG, dump_json(named))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's own card says nothing of this training


def _save_merged(
    student: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    base_config: PretrainedConfig,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    entropy_at: float | None,
    on_pass: Callable[[], None],
) -> Published:
    """Merge in float32, and save in the run's own dtype where that keeps what was learned, else in float32."""
    dtype, narrow = torch.float32, _dtype_of(student)
    student = _in_float32(student)
    texts = _replies(student, tokenizer, prompts, max_new_tokens)
    on_pass()
    kept = keep_states(student, texts)
    on_pass()
    with student.disable_adapter():
        base = keep_states(student, texts)
    on_pass()
    temperature = None
    if entropy_at is not None and not texts:
        logger.warning(
            "training: the student is published as sure as it is, because no prompt leaves room for a reply"
        )
    elif entropy_at is not None:
        temperature = student_temperature(student, kept.states, base.states, sampled_at=entropy_at)
    texts = texts[:NUM_PROMPTS]
    kept = KeptStates(kept.states[:NUM_PROMPTS], kept.head, temperature or 1.0)
    learned = kl_to_model(student, texts, kept, base.states[:NUM_PROMPTS])
    merged: PreTrainedModel = student.merge_and_unload()  # pyright: ignore[reportAssignmentType]
    if temperature:
        divide_logits(merged, temperature)
    lost = kl_to_model(merged, texts, kept)
    on_pass()
    _save(merged, folder, base_config)
    if narrow != torch.float32:
        merged.to(narrow)  # pyright: ignore[reportArgumentType]
        lost_narrow = kl_to_model(merged, texts, kept)
        on_pass()
        if lost_narrow < MAX_LOST * learned:
            dtype, lost = narrow, lost_narrow
            _save(merged, folder, base_config)
        elif texts:
            logger.info(
                "training: the merged model is saved in float32, because %s would keep %s of what was learned",
                name_of(narrow), _percent(_kept(lost_narrow, learned)),
            )  # fmt: skip
        else:
            logger.info(
                "training: the merged model is saved in float32, because no prompt leaves room for a reply"
            )
    return {
        "form": "merged",
        "dtype": name_of(dtype),
        "kl_learned": learned,
        "kl_lost": lost,
        "kept_fraction": _kept(lost, learned),
        "num_prompts": len(texts),
        "num_tokens": sum(len(completion) for _, completion in texts),
        "student_temperature": temperature,
    }


def _in_float32(student: PeftModel) -> PeftModel:
    """The same model, ready to answer, on the CPU if its GPU has no room for it."""
    if not _has_room(student):
        logger.info("training: the model is merged on the CPU, because its GPU has no room for it in float32")
        remove_hook_from_module(student, recurse=True)  # those of model.device_map lead back to the GPUs
        student.to("cpu")
    return student.float().eval()


def _has_room(model: CausalLM) -> bool:
    """Whether a model can become float32 where it is."""
    more = sum(weight.numel() * (4 - weight.element_size()) for weight in model.parameters())
    free = free_memory(model.device)
    return model.device.type == "cpu" or free is None or more <= MAX_SHARE * free


def _dtype_of(model: CausalLM) -> torch.dtype:
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return cast(torch.dtype, inner.dtype)


def _replies(
    student: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> Texts:
    """The student's own short replies, sampled at temperature 1.

    One of a single token is not drawn: what predicts it is all that is measured, whichever token it is.
    """
    if max_new_tokens == 1:
        return [(ids, (0,)) for ids in prompts]
    requests = [Request(prompt_ids=tuple(ids), seeds=(place,)) for place, ids in enumerate(prompts)]
    sampling = Sampling(temperature=1.0, max_new_tokens=max_new_tokens)
    done = dict(HFEngine(student, tokenizer, batch_size=NUM_PROMPTS).generate(requests, sampling))
    return [(request.prompt_ids, done[place][0].token_ids) for place, request in enumerate(requests)]


def _kept(lost: float, learned: float) -> float | None:
    """The share of what was learned that is left, at least 0. None where these texts show nothing learned."""
    return max(0.0, 1 - lost / learned) if learned > 0 else None


def _save(model: CausalLM, folder: Path, base_config: PretrainedConfig) -> None:
    """Save with the base model's configuration: trainers leave theirs changed (`use_cache: false`).

    Weights that lie there are removed: the index of several files would stay beside one file.
    """
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    model.config = copy.deepcopy(base_config)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    model.save_pretrained(str(folder))


def _write_config(file: Path, base: JsonDict, dtype: str) -> None:
    """The base's config.json with the dtype of these weights: transformers' own would be written in today's terms.

    An older program knows `rope_theta` and `torch_dtype`. What tells how a base was quantised, or where its code is,
    does not hold for these files, and what has parts has several dtypes. Then transformers' own stays.
    """
    if base.keys() & {"quantization_config", "auto_map", "text_config"}:
        return
    name = "torch_dtype" if "torch_dtype" in base else "dtype"
    saved = read_json(file) or {}
    write_text(
        file, dump_json({"architectures": saved["architectures"], **base, name: dtype}, is_ordered=True)
    )


def _percent(share: float | None) -> str:
    return "nothing" if share is None else f"{share:.1%}"
