"""What a report is made of. Any part may be missing (an unfinished run)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuron_opsd.records import NeuronSets, Question, Rollout, SelectedQuestion, TeacherContext
from neuron_opsd.report.compared import Comparison
from neuron_opsd.results import Harness, PreflightVerdict, Results


@dataclass(frozen=True, slots=True)
class ReadReplies:
    """Stored replies of one kind, as today's reader reads them (`report/readings.py`)."""

    where: str  # which replies these are, in words
    num_replies: int
    num_changed: int  # whose stored answer is another
    kinds: Counter[str]  # of those that give no answer: why
    examples: Mapping[str, str]  # by kind, shortened
    is_trained_on: bool  # so their stored answers stay


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """All that the page, the Markdown report and the model card show.

    `timings` and `environment` appear in the page's footer alone, because equal runs differ in them.

    `training_summary` says how training ended: {"stopped_because": str or None (it ran to its end), "stop_step":
    int or None, "best_step": int or None, "limits": {key of a metrics row: [low or None, high or None]}}. Every
    key may be missing.
    """

    config: Mapping[str, Any] = field(default_factory=dict)  # the resolved configuration, as nested dicts
    environment: Mapping[str, Any] = field(default_factory=dict)  # versions and devices
    questions: Sequence[Question] = ()
    rollouts: Sequence[Rollout] = ()  # zero-shot, of the frozen model, on the pool
    neuron_sets: Sequence[NeuronSets] = ()
    selection: Sequence[SelectedQuestion] = ()
    contexts: Sequence[TeacherContext] = ()
    contexts_summary: Mapping[str, Any] = field(default_factory=dict)  # their own figures
    training_metrics: Sequence[Mapping[str, Any]] = ()  # rows with `step` and whatever was measured
    results: Results | None = None
    harness: Harness | None = None
    timings: Sequence[Mapping[str, Any]] = ()  # rows: stage, seconds, num_items, ...
    replies: Sequence[ReadReplies] = ()
    preflight: PreflightVerdict | None = None  # and beneath its measures those that needed answers
    training_summary: Mapping[str, Any] | None = None
    comparison: Comparison | None = None
    usage: Sequence[str] = ()  # sentences for the model card: what who uses the model must know
    template_args: Mapping[str, Any] = field(default_factory=dict)  # to give to the published chat template
    licence: Mapping[str, str] = field(default_factory=dict)  # of the base model, as its own card names it
    prompts_example: Mapping[str, Any] | None = None  # question_id, student_prompt, teacher_prompt

    def setting(self, dotted: str, default: Any = None) -> Any:
        """A setting by its dotted name, e.g. `model.name`."""
        value: Any = self.config
        for part in dotted.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    @property
    def model_name(self) -> str:
        """The model's name without folders that are nobody else's business."""
        name = str(self.setting("model.name", "unknown model"))
        if name.startswith(("/", "./", "../", "~")) or "\\" in name:
            return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
        return name.removeprefix("embedded:")

    @property
    def uses_gold(self) -> bool:
        """Whether gold answers trained the model: an upper bound, marked wherever it is shown."""
        return self.setting("training.objective") == "gold_sft"

    @property
    def train_domains(self) -> Sequence[str]:
        """The domains trained on, from the results, the selection or the pool."""
        if self.results and (self.results.in_domain or self.results.own):
            return self.results.trained_domains
        return sorted(
            {s.domain for s in self.selection} or {q.domain for q in self.questions if q.split == "train"}
        )
