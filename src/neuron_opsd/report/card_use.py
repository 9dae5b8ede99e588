"""The model card's "How to use it": commands for transformers, vLLM and Ollama, with the run's template arguments."""

import json
from collections.abc import Mapping
from typing import Any

from neuron_opsd.model.locate import hub_name
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.text.escape import markdown_block, markdown_text

WHERE = "MODEL is this repository's name, or the folder with these files."


def how_to_use(inputs: ReportInputs, *, is_adapter: bool) -> list[str]:
    """Paragraphs and blocks of code."""
    base = hub_name(str(inputs.setting("model.name", ""))) or "BASE"
    where = WHERE
    if is_adapter:
        where += " This is an adapter, which goes on its base model"
        where += "." if base != "BASE" else f" BASE, {inputs.model_name}: a folder that is not on the hub."
    serve = _vllm(inputs, base if is_adapter else None)
    ollama = (
        "neuron-opsd export RUN --format gguf --output model.gguf  # RUN is the run's folder\n"
        "ollama create NAME -f Modelfile && ollama run NAME"
    )
    return [
        *([markdown_text(" ".join(inputs.usage))] if inputs.usage else []),
        markdown_text(where),
        "With transformers:",
        markdown_block(_transformers(inputs.template_args, base if is_adapter else None), "python"),
        "With vLLM, behind an OpenAI-compatible address:",
        markdown_block(serve, "bash"),
        "With Ollama, llama.cpp or LM Studio:",
        markdown_block(ollama, "bash"),
    ]


def _transformers(arguments: Mapping[str, Any], base: str | None) -> str:
    load = 'model = AutoModelForCausalLM.from_pretrained("MODEL", dtype="auto", device_map="auto")'
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if base:
        lines.insert(0, "from peft import PeftModel")
        load = load.replace("MODEL", base) + '\nmodel = PeftModel.from_pretrained(model, "MODEL")'
    given = "".join(f", {name}={value!r}" for name, value in arguments.items())
    return "\n".join(
        [
            *lines,
            "",
            'tokenizer = AutoTokenizer.from_pretrained("MODEL")',
            load,
            'messages = [{"role": "user", "content": "..."}]',
            "prompt = tokenizer.apply_chat_template(",
            f'    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"{given}',
            ").to(model.device)",
            "reply = model.generate(**prompt, max_new_tokens=512)",
            'print(tokenizer.decode(reply[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
    )


def _vllm(inputs: ReportInputs, base: str | None) -> str:
    command = f"vllm serve {base or 'MODEL'}"
    if base:
        rank = inputs.setting("training.lora.rank", 64)
        command += f" --enable-lora --max-lora-rank {rank} --lora-modules trained=MODEL"
    if inputs.template_args:
        command += f" --default-chat-template-kwargs '{json.dumps(dict(inputs.template_args))}'"
    return command
