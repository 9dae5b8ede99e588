"""Many methods and runs beside one another, as the report shows them. `comparison/` fills it in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from neuron_opsd.results import Bin, Estimate

Place = Literal["in", "cross"]  # tested on the domain trained on, or on the others


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """A figure that the tables show."""

    name: str
    label: str
    better: str  # "higher", "lower" or "neither"


@dataclass(frozen=True, slots=True)
class Method:
    """A recipe, or the base model."""

    name: str
    label: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedCell:
    """One method, trained on one domain (None: not trained) and tested on one: means over its seeds."""

    method: str
    source: str | None
    target: str
    num_seeds: int
    metrics: Mapping[str, Estimate]
    reliability: Mapping[str, Sequence[Bin]] = field(default_factory=dict)  # by kind of confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodMean:
    """One method's means over its cells of one place, each counted once; against the base model where it is another.

    `marks` are what was shown of a metric: `better than base`, `worse than base`, `best`, `best within noise`.
    """

    method: str
    place: Place
    metrics: Mapping[str, Estimate]
    differences: Mapping[str, Estimate] = field(default_factory=dict)
    marks: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TemplateShare:
    """Share of demonstrations that are of the question's own template, and what random ones would have."""

    method: str
    source: str
    value: float
    by_chance: float


@dataclass(frozen=True, slots=True)
class HarnessFigure:
    """What lm-evaluation-harness found: a mean over the seeds."""

    method: str
    source: str | None
    task: str
    metric: str
    value: float
    num_questions: int
    num_seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything in the order shown. The scatter needs the metrics `avg` and `ece`."""

    metrics: Sequence[ComparedMetric]
    methods: Sequence[Method]
    cells: Sequence[ComparedCell]
    means: Sequence[MethodMean]
    harness: Sequence[HarnessFigure] = ()
    templates: Sequence[TemplateShare] = ()
    notes: Sequence[str] = ()
