"""Inputs -> README.md of the published model: front matter, what it is, and the report's own numbers."""

from typing import Any

import yaml

from neuron_opsd.config import USES_GOLD
from neuron_opsd.model.locate import hub_name
from neuron_opsd.report import story, tables
from neuron_opsd.report.card_use import how_to_use
from neuron_opsd.report.content import CITATION
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.markdown import render, table
from neuron_opsd.report.parts import listed
from neuron_opsd.report.results import general_tables
from neuron_opsd.text.escape import markdown_block, markdown_text

TAGS = ["neuron-opsd", "self-distillation", "on-policy-distillation", "label-free", "arxiv:2607.02460"]


def model_card(inputs: ReportInputs) -> str:
    """The card's text."""
    front = yaml.safe_dump(_front_matter(inputs), sort_keys=False, allow_unicode=True)
    parts = [f"# {markdown_text(story.title(inputs))}, {_how(inputs)}", _introduction(inputs)]
    parts += ["## Results", *_results(inputs)]
    parts += ["## How it was made", *(text for text in map(render, story.what_was_done(inputs)) if text)]
    parts += ["## How to use it", *how_to_use(inputs, is_adapter=_is_adapter(inputs))]
    parts += [
        "## Limits",
        _limits(inputs),
        "## Licence",
        _licence(inputs),
        "## How to cite",
        markdown_block(CITATION, "bibtex"),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def _is_distilled(inputs: ReportInputs) -> bool:
    """Whether the model is the method's, or an ablation's, else it is a rival's, trained for comparison."""
    is_own = str(inputs.setting("contexts.retrieval")).startswith("own_")
    return inputs.setting("training.objective", "distillation") == "distillation" and not is_own


def _how(inputs: ReportInputs) -> str:
    if _is_distilled(inputs):
        return "self-distilled with Neuron-OPSD"
    what = "an upper bound with gold answers" if inputs.uses_gold else "a rival of Neuron-OPSD"
    return f"trained by {markdown_text(str(inputs.setting('recipe')))}, {what}"


def _front_matter(inputs: ReportInputs) -> dict[str, Any]:
    front: dict[str, Any] = {}
    base = hub_name(str(inputs.setting("model.name", "")))
    if base:
        front["base_model"] = base
        front["base_model_relation"] = "adapter" if _is_adapter(inputs) else "finetune"
    front |= inputs.licence
    front["library_name"] = "peft" if _is_adapter(inputs) else "transformers"
    front["pipeline_tag"] = "text-generation"
    front["tags"] = (
        TAGS if _is_distilled(inputs) else ["uses-gold-answers" if inputs.uses_gold else "label-free"]
    )
    return front


def _is_adapter(inputs: ReportInputs) -> bool:
    return inputs.setting("training.save") == "adapter" and inputs.setting("training.method") == "lora"


def _licence(inputs: ReportInputs) -> str:
    if not inputs.licence:
        return "This model stands under the licence of its base, which is not known here. Look it up before sharing it."
    named = ", ".join(markdown_text(value) for value in inputs.licence.values())
    return f"This model stands under the licence of its base: {named}."


def _introduction(inputs: ReportInputs) -> str:
    domains = [markdown_text(domain) for domain in inputs.train_domains]
    where = f" in the domain{'s' if len(domains) > 1 else ''} {listed(domains)}" if domains else ""
    if not _is_distilled(inputs):
        what = markdown_text(str(inputs.setting("description", "")).strip())
        gold = f"{USES_GOLD}." if inputs.uses_gold else "No gold answer was used in training."
        return f"{markdown_text(inputs.model_name)}{where}. {what} {gold}"
    return (
        f"{markdown_text(inputs.model_name)}, trained by on-policy self-distillation on unlabelled questions{where} "
        "(Neuron-OPSD, arXiv 2607.02460). No gold answer was used in training."
    )


def _results(inputs: ReportInputs) -> list[str]:
    results = inputs.results
    if not results:
        return ["This model has not been evaluated."]
    parts = ["\n".join(f"- {markdown_text(sentence)}" for sentence in results.verdicts)]
    if results.in_domain:
        parts.append(table(tables.metrics_table(f"In-domain: {results.train_domain}", results.in_domain)))
    for domain, block in results.own.items():
        parts.append(table(tables.metrics_table(f"In-domain: {domain}", block)))
    if results.cross.mean:
        parts.append(table(tables.metrics_table(tables.cross_caption(results), results.cross.mean)))
    return parts + [table(shown) for shown in general_tables(results)]


def _limits(inputs: ReportInputs) -> str:
    return (
        "It was evaluated on the domains above and nowhere else. Intervals are over questions of one run; "
        "they do not contain the variation between training seeds. “No difference shown” is not “no "
        "difference”. Whatever the base model gets wrong with confidence, self-distillation can make it "
        "say with more."
    )
