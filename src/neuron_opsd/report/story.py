"""The report's sentences: what was done, what was selected, how to read the numbers."""

from collections.abc import Mapping
from typing import Any

from neuron_opsd.config import USES_GOLD
from neuron_opsd.records import TeacherContext
from neuron_opsd.report import tables
from neuron_opsd.report.blocks import Block, Bullets, Paragraph
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.results import name_together

DIVERGENCES = {
    "reverse_kl": "the reverse KL divergence, KL(student || teacher)",
    "forward_kl": "the forward KL divergence, KL(teacher || student)",
    "jsd": "the Jensen-Shannon divergence",
}
TEACHERS = {
    "ema": "whose weights follow the student's as a moving average",
    "frozen": "whose weights stay those of the initial model",
    "live": "whose weights are the student's own",
}
RETRIEVALS = {
    "neuron_overlap": "the questions whose replies used the most similar neurons",
    "random": "random questions of the same domain (a control)",
    "tfidf": "the questions nearest by their words (a control)",
    "embedding": "the questions nearest by the base model's own embedding (a control)",
    "other_domain": "random questions of another domain (a control)",
    "medoids": "the same questions for all: those that stand for the pool by their neurons",
    "fixed_random": "the same random questions for all (a control)",
    "own_majority": "the question itself with its majority answer's likeliest rollout (a rival)",
}


def title(inputs: ReportInputs) -> str:
    """The report's name: model and domain."""
    if inputs.comparison and not inputs.questions:
        return f"Recipes compared on {inputs.model_name}"
    domains = inputs.train_domains
    where = f" on {name_together(domains)}" if domains else ""
    mark = f" ({USES_GOLD})" if inputs.uses_gold else ""
    return f"{inputs.model_name}{where}{mark}"


def what_was_done(inputs: ReportInputs) -> list[Block]:
    """The stages that ran, in order, with their counts."""
    steps = [_questions(inputs), _rollouts(inputs), _selection(inputs), _contexts(inputs), _training(inputs)]
    steps += [_published(inputs), _evaluation(inputs)]
    made = [step for step in steps if step]
    description = str(inputs.setting("description", "") or "").strip()
    intro = (
        [Paragraph(f"Recipe {inputs.setting('recipe', 'unknown')}. {description}".strip())]
        if inputs.config
        else []
    )
    return (
        [*intro, Bullets(made)] if made else [*intro, Paragraph("No stage has finished yet.", is_notice=True)]
    )


def _questions(inputs: ReportInputs) -> str:
    if not inputs.questions:
        return ""
    pool = sum(question.split == "train" for question in inputs.questions)
    held_out = len(inputs.questions) - pool
    if inputs.uses_gold:
        return f"Questions: {pool:,} with their gold answers form the pool, {held_out:,} are held out. {USES_GOLD}."
    return (
        f"Questions: {pool:,} without answers form the pool, {held_out:,} are held out for evaluation. "
        "No answer was readable before the evaluation."
    )


def _rollouts(inputs: ReportInputs) -> str:
    if not inputs.rollouts:
        return ""
    cut = sum(rollout.finish_reason == "length" for rollout in inputs.rollouts) / len(inputs.rollouts)
    parsed = sum(rollout.answer is not None for rollout in inputs.rollouts) / len(inputs.rollouts)
    return (
        f"Rollouts: the frozen {inputs.model_name} gave {len(inputs.rollouts):,} zero-shot replies at "
        f"temperature {inputs.setting('rollouts.temperature', 'unknown')}; {parsed:.1%} had a readable "
        f"answer, {cut:.1%} were cut at the length limit."
    )


def _selection(inputs: ReportInputs) -> str:
    if not inputs.selection:
        return ""
    kept = sum(s.selected for s in inputs.selection)
    return (
        f"Selection: {kept:,} of {len(inputs.selection):,} questions, the "
        f"{inputs.setting('selection.keep', 'lowest')} {inputs.setting('selection.fraction', 0.2):.0%} by "
        f"{inputs.setting('selection.score', 'consensus')}."
    )


def _contexts(inputs: ReportInputs) -> str:
    if not inputs.contexts:
        return ""
    shown = sum(len(context.demonstrations) for context in inputs.contexts) / len(inputs.contexts)
    dropped = sum(context.num_demonstrations_dropped for context in inputs.contexts)
    what = RETRIEVALS.get(inputs.setting("contexts.retrieval", "neuron_overlap"), "other questions")
    return (
        f"Teacher contexts: {shown:.1f} demonstrations on average, {what}, each with the model's own reply; "
        f"{dropped:,} demonstrations dropped to fit the token budget.{_templates(inputs.contexts_summary)}"
    )


def _templates(summary: Mapping[str, Any]) -> str:
    """How much of a context is the question's own template: what a memory of its wording could explain."""
    share, chance = summary.get("same_template_fraction"), summary.get("same_template_by_chance")
    if share is None or chance is None:
        return ""
    return f" {share:.0%} of them open like their question, numbers and names masked; of random ones {chance:.0%}."


def _training(inputs: ReportInputs) -> str:
    if not inputs.training_metrics:
        return ""
    divergence = DIVERGENCES.get(inputs.setting("training.divergence"), "a divergence")
    teacher = TEACHERS.get(inputs.setting("training.teacher"), "")
    return (
        f"Training: {len(inputs.training_metrics):,} steps of {inputs.setting('training.batch_size', '?')} "
        f"questions. The student answered by itself; on its own tokens {divergence}, was made smaller, "
        f"towards a teacher that reads the demonstrations and {teacher}."
    )


def _published(inputs: ReportInputs) -> str:
    """What is published, in which dtype, and how much of what was learned it keeps."""
    published = (inputs.training_summary or {}).get("published")
    if not published:
        return ""
    if published["form"] == "adapter":
        return "Published: the adapter as it was trained, without rounding. The base model is not part of it."
    if published["form"] == "full":
        return f"Published: all weights in {published['dtype']}, as they were trained."
    if temperature := published.get("student_temperature"):
        return (
            f"Published: the model with the adapter merged in float32, its logits divided by {temperature:.3f} so that "
            f"it is as sure as the base model, saved in {published['dtype']}. {_what_it_keeps(published)}"
        )
    return (
        f"Published: the adapter as it was trained, and the model with the adapter merged in float32 and saved in "
        f"{published['dtype']}. {_what_it_keeps(published)}"
    )


def _what_it_keeps(published: Mapping[str, Any]) -> str:
    lost, learned, kept = (published[name] for name in ("kl_lost", "kl_learned", "kept_fraction"))
    if not published["num_prompts"]:
        return "What it keeps was not measured: no prompt of the pool leaves room for a reply in the model's context."
    where = (
        f"{published['num_tokens']:,} tokens of the student's replies to {published['num_prompts']} questions of the "
        f"pool, {published['num_held_out']} of which training did not use"
    )
    if kept is None:
        return f"The student does not differ from the base model on {where}."
    return (
        f"Kept: {_share(kept)} of what was learned. KL(student || published) is {lost:.2g} nats a token where "
        f"KL(student || base) is {learned:.2g}, on {where}."
    )


def _share(kept: float) -> str:
    """Two decimals, and never 100 % where something is missing."""
    return "100%" if kept > 0.99999 else f"{min(kept, 0.9999):.2%}"


def _evaluation(inputs: ReportInputs) -> str:
    results = inputs.results
    if not results:
        return ""
    if results.is_exact:
        orders = (
            f", a mean over {results.num_samples} orders of the choices" if results.num_samples > 1 else ""
        )
        return (
            f"Evaluation: exact expectations at temperature {results.temperature}, not samples. Each answer's "
            f"probability is that of the first token{orders}. Maj@{results.pass_k} is its expectation, and the "
            "likeliest answer is what infinitely many samples would vote for. Before and "
            f"after training, on the same questions; {results.num_bootstrap:,} bootstrap resamples.{_on_what(inputs)}"
        )
    if results.num_complete:
        own = [*([results.in_domain] if results.in_domain else []), *results.cross.domains.values()]
        drawn = " and ".join(
            f"{sum(block.num_drawn.of(role) for block in own if block.num_drawn):,} {word} training"
            for role, word in tables.WORDS.items()
        )
        most = results.num_samples * sum(block.num_questions for block in own)
        return (
            f"Evaluation: up to {results.num_samples} samples a question at temperature {results.temperature}, until "
            f"its majority answer could not change: {drawn}, of {most:,}. So Maj@{results.num_samples} is that of all "
            f"samples. Other figures are of the first {results.num_complete} of each question. Before and after "
            f"training, on the same questions; {results.num_bootstrap:,} bootstrap resamples.{_on_what(inputs)}"
        )
    return (
        f"Evaluation: {results.num_samples} samples a question at temperature {results.temperature}, "
        f"before and after training, on the same questions; {results.num_bootstrap:,} bootstrap "
        f"resamples.{_on_what(inputs)}"
    )


def _on_what(inputs: ReportInputs) -> str:
    """That the published model was evaluated, as it was saved. Nothing where training published none."""
    published = (inputs.training_summary or {}).get("published")
    if not published:
        return ""
    dtype, base = published["dtype"], inputs.setting("model.dtype")
    if dtype is None:
        return f" The published adapter was evaluated on the base model in {base}."
    beside = "" if dtype == base else f", beside the base model in {base}"
    return f" The published model was evaluated, in {dtype} as it was saved{beside}."


def calibration_in_words(rules: Mapping[str, str]) -> list[Block]:
    """What each confidence means here, and how to read a reliability diagram."""
    known = [f"{label.capitalize()}: {rule}" for label, rule in rules.items() if rule]
    return [
        Paragraph(
            "Confidence is always named. On the diagonal of a reliability diagram an answer is right as often as "
            "its confidence says; dots below it are overconfident. A larger dot holds more questions."
        ),
        *([Bullets(known)] if known else []),
    ]


def how_training_ended(inputs: ReportInputs) -> Paragraph | None:
    """A notice where a guard rail stopped training. Nothing where it ran to its end."""
    summary = inputs.training_summary or {}
    reason = summary.get("stopped_because")
    if not reason:
        return None
    step, best = summary.get("stop_step"), summary.get("best_step")
    where = f" at step {step}" if step is not None else ""
    kept = f" The model kept is that of step {best}." if best is not None else ""
    return Paragraph(
        f"A guard rail stopped training{where}: {str(reason).rstrip('.')}.{kept}", is_notice=True
    )


def selection_in_words(inputs: ReportInputs) -> Paragraph:
    """What s(x) is, and the caution about length."""
    return Paragraph(
        "The consensus score s(x) counts the neurons that contributed most to the model's reply; few "
        "neurons are read as high consensus. It depends on the reply's length as well, so a selection by "
        "s(x) can be a selection by length: the correlations say how much of that is so here."
    )


def example_in_words(inputs: ReportInputs, question_id: str, context: TeacherContext | None) -> Paragraph:
    """What the example shows, with token counts."""
    if context is None:
        return Paragraph(f"Question {question_id}.")
    return Paragraph(
        f"Question {question_id}: the student reads {context.num_student_prompt_tokens:,} tokens, the "
        f"teacher {context.num_teacher_prompt_tokens:,}, with {len(context.demonstrations)} demonstrations "
        f"({context.num_demonstrations_dropped} dropped to fit). Both prompts come from one function."
    )


def training_in_words(inputs: ReportInputs) -> Paragraph:
    """What the curves are for."""
    if inputs.setting("training.objective", "distillation") != "distillation":
        return Paragraph("The trainer's own figures. Whether the model got better is for the results to say.")
    return Paragraph(
        "A falling loss says that the student moved towards the teacher, not that it got better; that is "
        "for the results to say. Completion length and truncation are the guard rails: a collapse shows "
        "there first."
    )


def how_to_read(inputs: ReportInputs) -> list[Block]:
    """Definitions, and what the numbers cannot show."""
    items = [
        "Avg@k: share of all k samples that are right, averaged over questions. Maj@k: share of questions "
        "whose majority answer is right; ties go to the answer given first.",
        "An answer that cannot be read stays in every denominator; where it wins the vote, the answer is "
        "wrong.",
        "Balanced accuracy: the mean over gold answers of the majority answer's accuracy on each; a model "
        "that always says the same letter gains nothing on it.",
        "ECE-15: the mean gap between confidence and accuracy over 15 equal bins of confidence. It is "
        "above 0 even for a perfectly calibrated model, the more so the fewer questions there are. Brier "
        "score, negative log-likelihood and AURC: small is good. AUROC: large is good. Overconfidence: "
        "mean confidence less accuracy.",
        "“No difference shown” means that the 95% interval covers 0. It does not mean that there is no "
        "difference.",
        "Intervals are over questions of this run: they do not contain the variation between training seeds.",
    ]
    return [Bullets(items)] if inputs.results else []


def subtitle(inputs: ReportInputs) -> str:
    """One line under the title: how it was trained, or how far the run has come."""
    if inputs.comparison and not inputs.questions:
        return "Each recipe is trained on each domain and tested on all, on the same questions."
    if not inputs.results:
        return "An unfinished run: what is missing is named below."
    kept = sum(s.selected for s in inputs.selection)
    what = f"{kept:,} selected questions" if kept else "questions"
    return f"{_how_trained(inputs, what)}, then compared with the model it started from."


def _how_trained(inputs: ReportInputs, what: str) -> str:
    if inputs.uses_gold:
        return f"{USES_GOLD}. Fine-tuned on {what} with their answers"
    objective = inputs.setting("training.objective", "distillation")
    if objective == "none":
        return "Not trained"
    how = "Self-distilled" if objective == "distillation" else f"Trained by {inputs.setting('recipe')}"
    return f"{how} from {what} without a single answer"
