"""The stages in order: the method in one file. Read it after records.py.

    questions -> rollouts -> neurons -> select -> contexts -> preflight -> train -> evaluate -> report

Each `make_*` function runs one stage on a run folder: it reads the records of earlier stages, calls the stage's pure
functions, and saves. A stage that is finished and was made from the same inputs is skipped; an interrupted one resumes.
Gold answers are opened by `make_evaluation`, and after the preflight's verdict for the teacher's accuracy, which no
later stage reads.
"""

import logging
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_opsd import processes
from neuron_opsd.demonstrations import demonstrating_replies, find_neighbours
from neuron_opsd.engines.base import Sampling
from neuron_opsd.errors import UnlikelyToHelpError
from neuron_opsd.evaluation.evaluate import evaluate, teacher_gap
from neuron_opsd.evaluation.general import GeneralSamples
from neuron_opsd.files import read_json_lines, write_text
from neuron_opsd.model.base_kl import keep_base_states, kl_from_base
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.neurons.overlap import nearest_neighbours
from neuron_opsd.progress import track
from neuron_opsd.questions.duplicates import template_key
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import (
    BaseDivergence,
    NeuronSets,
    OptionScores,
    PreflightItem,
    Question,
    Rollout,
    SelectedQuestion,
    TeacherContext,
)
from neuron_opsd.report import ReportInputs, model_card, write_report
from neuron_opsd.rollouts.pseudo_label import vote
from neuron_opsd.selection.select import select_questions
from neuron_opsd.sharded import make_sharded, make_share
from neuron_opsd.sharded_stages import NeuronStage, SampledStage, evaluation_stages
from neuron_opsd.stage_folder import StageFolder
from neuron_opsd.stage_inputs import ROLES, preflight_sampling, reads_neurons
from neuron_opsd.statistics import pearson
from neuron_opsd.teacher.context import build_contexts
from neuron_opsd.teacher.preflight import PromptPair, answer_prompts, score_under_both
from neuron_opsd.teacher.preflight import make_item as make_preflight_item
from neuron_opsd.teacher.verdict import UNLIKELY, same_template_share
from neuron_opsd.teacher.verdict import judge as judge_preflight
from neuron_opsd.training.estimate import describe_memory
from neuron_opsd.training.schedule import num_steps
from neuron_opsd.training.train import publish, train
from neuron_opsd.workbench import Workbench, stages_of

logger = logging.getLogger(__name__)

PREFLIGHT_SHARD = 8  # questions a file: what a kill can lose
TEACHER_GAP = "evaluation/teacher_gap.json"
DIVERSITY_SAMPLE = 200  # questions whose pairwise distances the preflight averages


def make_questions(bench: Workbench) -> None:
    """Unlabelled questions: read, stripped of answers, de-duplicated, split."""
    stage = bench.folder.stage("questions")
    questions, inputs = bench.inputs.questions, bench.inputs_of("questions")
    with bench.stage_run(stage, inputs) as run:
        if run.is_needed:
            _add_only_shard(stage, inputs, questions, Question)
            pool = sum(question.split == "train" for question in questions)
            stage.finish({"num_train": pool, "num_test": len(questions) - pool}, Question)
    logger.info("questions: %d in the pool of domain %s", len(bench.pool), bench.train_domain)


def make_rollouts(bench: Workbench) -> None:
    """Zero-shot answers of the frozen model to every question of the pool."""
    make_sharded(SampledStage(bench, "rollouts"))


def make_neurons(bench: Workbench) -> None:
    """The neurons behind each question's first rollout."""
    make_sharded(NeuronStage(bench, "neurons"))


def make_selection(bench: Workbench) -> None:
    """The fifth of each domain with the fewest neurons."""
    stage, settings = bench.folder.stage("selection"), bench.config.selection
    inputs = bench.inputs_of("selection")
    with bench.stage_run(stage, inputs) as run:
        if run.is_needed:
            votes = vote(bench.folder.stage("rollouts").read(Rollout))
            sets = bench.folder.stage("neurons").read(NeuronSets)
            records = select_questions(bench.pool, sets, votes, settings, seed=bench.config.seed)
            _add_only_shard(stage, inputs, records, SelectedQuestion)
            stage.finish({"num_selected": sum(record.selected for record in records)}, SelectedQuestion)


def make_contexts(bench: Workbench) -> None:
    """For each selected question, its neuron-nearest questions with the model's own replies."""
    stage, config, settings = bench.folder.stage("contexts"), bench.config, bench.context_settings()
    make_other_replies(bench)
    inputs = bench.inputs_of("contexts")
    with bench.stage_run(stage, inputs) as run:
        if not run.is_needed:
            return
        selected = [bench.questions_by_id[question_id] for question_id in bench.selected_ids()]
        sets = {item.question_id: item.overlap_set for item in bench.folder.stage("neurons").read(NeuronSets)}
        replies = demonstrating_replies(bench)
        contexts = build_contexts(
            bench.selected_ids(),
            find_neighbours(bench, selected, replies, sets),
            bench.shown_by_id,
            replies,
            bench.encoder(teacher=True),
            settings=settings,
            prompts=config.prompts,
        )
        dropped = sum(context.num_demonstrations_dropped for context in contexts)
        if dropped:
            logger.warning(
                "contexts: %d demonstrations dropped, farthest first, to fit %d prompt tokens",
                dropped, settings.max_prompt_tokens,
            )  # fmt: skip
        _add_only_shard(stage, inputs, contexts, TeacherContext)
        stage.finish({"num_demonstrations_dropped": dropped}, TeacherContext)


def make_other_replies(bench: Workbench) -> None:
    """The frozen model's replies to the questions of another domain, where these are to demonstrate."""
    if bench.other_questions:
        make_sharded(SampledStage(bench, "demonstrations"))


def make_preflight(bench: Workbench) -> None:
    """Whether the teacher is worth learning from, told by a sample of the selected questions and no label."""
    stage, config = bench.folder.stage("preflight"), bench.config
    if not config.preflight.num_questions:
        logger.info("preflight: left out, because preflight.num_questions is 0")
        return
    sampling, inputs = preflight_sampling(config), bench.inputs_of("preflight")
    with bench.stage_run(stage, inputs, outdates_results=False) as run:
        if run.is_needed:
            pairs, step = bench.preflight_pairs(), PREFLIGHT_SHARD * config.preflight.num_samples
            shards = [pairs[start : start + step] for start in range(0, len(pairs), step)]
            missing = stage.begin(inputs, len(shards))
            done = len(pairs) - sum(len(shards[index]) for index in missing)
            with track("preflight", total=len(pairs), unit="samples", done=done) as progress:
                for index in missing:
                    items, num_tokens = _look_ahead(bench, shards[index], sampling)
                    stage.add_shard(items, PreflightItem, index)
                    progress.advance(len(shards[index]), tokens=num_tokens)
            run.num_tokens = progress.num_tokens
            verdict = judge_preflight(stage.read(PreflightItem), **_pool_figures(bench), seed=config.seed)
            bench.folder.write_json("preflight/verdict.json", verdict)
            stage.finish(verdict, PreflightItem)
    verdict = stage.summary()
    logger.info("preflight: %s, because %s", verdict["verdict"], "; ".join(verdict["reasons"]))
    # After the verdict, and in evaluation's folder: training reads neither.
    gap = teacher_gap(bench.questions, stage.read(PreflightItem), config.evaluation, seed=config.seed)
    if gap is None:
        (bench.folder.path / TEACHER_GAP).unlink(missing_ok=True)
    else:
        bench.folder.write_json(TEACHER_GAP, gap)


def make_trained_model(bench: Workbench) -> None:
    """The student, pulled towards the teacher on its own samples; published in RUN/model."""
    stage, config = bench.folder.stage("training"), bench.config
    if config.training.objective == "none":
        logger.info("train: nothing to do, because training.objective is none")
        return
    inputs = bench.inputs_of("training")
    with bench.stage_run(stage, inputs) as run:
        if not run.is_needed:
            return
        num_selected = len(bench.selected_ids())
        steps = num_steps(num_selected, config.training)
        total = steps * config.training.completions_per_step()
        if steps < config.training.num_steps:
            logger.info(
                "train: %d steps (%g epochs of %d selected questions), not training.num_steps=%d",
                steps, config.training.max_epochs, num_selected, config.training.num_steps,
            )  # fmt: skip
        if processes.is_main():
            stage.begin(inputs)
        processes.wait_for_all()
        items = bench.training_items(total)
        if processes.is_main():
            logger.info("train: %s", describe_memory(config, *bench.longest_prompts()))
        model, tokenizer = bench.take_base_model()
        with track("train", total=steps, unit="steps") as progress:
            trained = train(
                model,
                bench.make_engine,
                items,
                config.training,
                folder=stage.path,
                num_steps=steps,
                seed=config.seed,
                read_answer=bench.read_answer,
                callbacks=[bench.progress_callback(progress)],
                on_first_batch=bench.log_first_item,
            )
        if not processes.is_main():
            return
        publish(
            trained.student,
            tokenizer,
            bench.folder.path / "model",
            save=config.training.save,
            model_card=_card(bench),
        )
        rows = read_json_lines(stage.path / "metrics.jsonl")
        run.num_tokens = sum(row["num_completion_tokens"] for row in rows)
        stage.finish(
            {
                "num_steps": steps,
                "num_completion_tokens": run.num_tokens,
                "num_loss_tokens": sum(row["num_loss_tokens"] for row in rows),
                **trained.summary,
            },
            files=[stage.path / "metrics.jsonl", *_model_files(bench)],
        )


def _model_files(bench: Workbench) -> list[Path]:
    """The published model, save the card, which evaluation writes again."""
    files = (bench.folder.path / "model").iterdir()
    return sorted(path for path in files if path.is_file() and path.name != "README.md")


def make_evaluation(bench: Workbench) -> None:
    """Base and trained model on the test questions; gold answers, where there are any, are opened here."""
    names: set[str] = set()
    for work in evaluation_stages(bench):
        if work.reads_context:
            make_other_replies(bench)
            make_test_contexts(bench)
        make_sharded(work)
        names.add(work.name)
    # A run that trains nothing and reads no context compares the base model with itself.
    roles = ROLES if "evaluation/trained" in names else ("base", "base")
    folder, is_trained = bench.folder, bench.config.training.objective != "none"
    results = evaluate(
        bench.test_questions,
        folder.stage(f"evaluation/{roles[0]}").read(Rollout),
        folder.stage(f"evaluation/{roles[1]}").read(Rollout),
        bench.config.evaluation,
        train_domain=bench.train_domain,
        seed=bench.config.seed,
        options=_option_scores(bench, names, *roles),
        general=_general_samples(bench, names) if bench.inputs.general_questions and is_trained else None,
        pool=bench.pool,
        pool_rollouts=folder.stage("rollouts").read(Rollout) if "rollouts" in bench.inputs.made else (),
    )
    # In the order in which reports show the metrics.
    bench.folder.write_json("evaluation/results.json", results, is_ordered=True)
    if is_trained:
        write_text(bench.folder.path / "model" / "README.md", _card(bench))


def make_test_contexts(bench: Workbench) -> None:
    """What the second model reads before each test question: the teacher's context, from the pool.

    The test question's own neurons are those of the base model's first sample of it.
    """
    stage, config, settings = (
        bench.folder.stage("evaluation/contexts"),
        bench.config,
        bench.context_settings(),
    )
    inputs, questions = bench.inputs_of("evaluation/contexts"), bench.test_questions
    with bench.stage_run(stage, inputs) as run:
        if run.is_needed:
            replies = demonstrating_replies(bench)
            neighbours = find_neighbours(bench, questions, replies, _all_overlap_sets(bench))
            contexts = build_contexts(
                [question.question_id for question in questions],
                neighbours,
                bench.shown_by_id | {question.question_id: question for question in questions},
                replies,
                bench.encoder(teacher=True),
                settings=settings,
                prompts=config.prompts,
            )
            _add_only_shard(stage, inputs, contexts, TeacherContext)
            dropped = sum(context.num_demonstrations_dropped for context in contexts)
            stage.finish({"num_demonstrations_dropped": dropped}, TeacherContext)


def _all_overlap_sets(bench: Workbench) -> dict[str, NDArray[np.int32]]:
    """Overlap sets of the pool and of the test questions; none where no neuron is read."""
    if not reads_neurons(bench.config):
        return {}
    samples = bench.folder.stage("evaluation/base").read(Rollout)
    first = [rollout for rollout in samples if rollout.rollout_index == 0]
    own = capture_neurons(*bench.base_model(), first, bench.config.neurons)
    pool = bench.folder.stage("neurons").read(NeuronSets)
    return {item.question_id: item.overlap_set for item in [*pool, *own]}


def make_report(bench: Workbench) -> None:
    """The page and its Markdown twin, of whatever stages are there."""
    write_report(_report_inputs(bench), bench.folder.path)


STAGES: dict[str, Callable[[Workbench], None]] = {
    "questions": make_questions,
    "rollouts": make_rollouts,
    "neurons": make_neurons,
    "select": make_selection,
    "contexts": make_contexts,
    "preflight": make_preflight,
    "train": make_trained_model,
    "evaluate": make_evaluation,
    "report": make_report,
}


def run_stages(bench: Workbench, *, until: str = "report", stop_if_unlikely: bool = False) -> None:
    """Run every stage in order, up to and including `until`.

    Raises:
        UnlikelyToHelpError: the preflight says so, and `stop_if_unlikely` asks to stop then.
    """
    for name, make in STAGES.items():
        if name in stages_of(bench.config):
            make(bench)
        if name == "preflight" and name in stages_of(bench.config) and stop_if_unlikely:
            stop_where_unlikely(bench)
        if name == until:
            return


def make_shares(bench: Workbench, name: str, part: int, num_parts: int) -> None:
    """One array task's share of rollouts, neurons or evaluation, for the command without --shards to gather."""
    kinds = {"rollouts": SampledStage, "neurons": NeuronStage}
    works = [kinds[name](bench, name)] if name in kinds else evaluation_stages(bench)
    for work in works:
        if work.is_ready():
            make_share(work, part, num_parts)
        else:
            logger.info("%s: not yet; it reads what this command gathers without --shards", work.name)


def stop_where_unlikely(bench: Workbench) -> None:
    """Stop a run whose preflight is against it.

    Raises:
        UnlikelyToHelpError: the verdict, its reasons and what can be done.
    """
    verdict = bench.folder.stage("preflight").summary()
    if verdict["verdict"] == UNLIKELY:
        raise UnlikelyToHelpError(
            f"stopped before training: {UNLIKELY}, because {'; '.join(verdict['reasons'])}. Everything so far is kept "
            f"in {bench.folder.path}. Run the same command without --stop-if-unlikely to train all the same."
        )


def _add_only_shard(stage: StageFolder, inputs: dict[str, Any], records: list[Any], kind: type) -> None:
    """The shard of a stage that has one; a run killed just after writing it has it already."""
    if stage.begin(inputs):
        stage.add_shard(records, kind)


def _general_samples(bench: Workbench, names: Container[str]) -> GeneralSamples:
    """Both models' samples of the general questions, and their KL on the base model's first sample of each."""
    base, trained = (bench.folder.stage(f"evaluation/general_{role}").read(Rollout) for role in ROLES)
    stage = bench.folder.stage("evaluation/general_kl")
    inputs = bench.inputs_of("evaluation/general_kl")
    with bench.stage_run(stage, inputs) as run:
        if run.is_needed:
            first = [rollout for rollout in base if rollout.rollout_index == 0]
            texts = [(rollout.prompt_ids, rollout.completion_ids) for rollout in first]
            kept = keep_base_states(bench.base_model()[0], texts)
            sums = kl_from_base(bench.model(str(bench.folder.path / "model")), texts, kept)
            records = [
                BaseDivergence(question_id=rollout.question_id, num_tokens=len(rollout.completion_ids), kl=kl)
                for rollout, kl in zip(first, sums, strict=True)
            ]
            _add_only_shard(stage, inputs, records, BaseDivergence)
            stage.finish({}, BaseDivergence)
    options = _option_scores(bench, names, "general_base", "general_trained")
    return GeneralSamples(bench.inputs.general_questions, base, trained, stage.read(BaseDivergence), options)


def _option_scores(
    bench: Workbench, names: Container[str], first: str, second: str
) -> tuple[list[OptionScores], list[OptionScores]]:
    """Of what two models were asked; none where `names`, the stages of this run, has none."""
    stages = [f"evaluation/{asked}_options" for asked in (first, second)]
    one, other = (bench.folder.stage(name).read(OptionScores) if name in names else [] for name in stages)
    return one, other


def _look_ahead(
    bench: Workbench, pairs: list[PromptPair], sampling: Sampling
) -> tuple[list[PreflightItem], int]:
    """Both roles' answers to some questions, the student's first scored under both prompts; and the tokens sampled."""
    config, step = bench.config, bench.config.preflight.num_samples
    engine = bench.engine(config.model.name, batch_size=config.rollouts.batch_size)
    seeds = [pair.seed for pair in pairs]
    student = answer_prompts([pair.student_ids for pair in pairs], seeds, engine, sampling)
    teacher = answer_prompts([pair.teacher_ids for pair in pairs], seeds, engine, sampling)
    scores = score_under_both(
        bench.base_model()[0],
        pairs[::step],
        [completion.token_ids for completion in student[::step]],
        chunk_tokens=config.training.loss_chunk_tokens,
    )
    items = []
    for start, sums in zip(range(0, len(pairs), step), scores, strict=True):
        own = slice(start, start + step)
        question = bench.questions_by_id[pairs[start].question_id]
        items.append(
            make_preflight_item(
                question, pairs[own], student[own], teacher[own], sums, bench.encoder(),
                answer_format=config.prompts.answer_format,
            )
        )  # fmt: skip
    return items, sum(len(completion.token_ids) for completion in (*student, *teacher))


def _pool_figures(bench: Workbench) -> dict[str, Any]:
    """What the stages before already know of the pool, for the preflight."""
    sets = bench.folder.stage("neurons").read(NeuronSets)
    some = sorted(sets, key=lambda item: derive_seed(bench.config.seed, "diversity", item.question_id))
    some = [item.overlap_set for item in some[:DIVERSITY_SAMPLE]]
    contexts = bench.folder.stage("contexts").read(TeacherContext)
    return {
        "pool_diversity": float(nearest_neighbours(some, len(some) - 1)[1].mean()) if len(some) > 1 else None,
        "same_template": same_template_share(contexts, bench.shown_by_id, template_key),
        "length_correlation": pearson(
            np.array([float(item.consensus_score) for item in sets]),
            np.array([float(item.num_completion_tokens) for item in sets]),
        ),
    }


def _report_inputs(bench: Workbench) -> ReportInputs:
    folder = bench.folder

    def records(name: str, record_type: type) -> list[Any]:
        if bench.is_current(name):
            return folder.stage(name).read(record_type)
        if folder.stage(name).manifest() is not None:
            logger.warning("report: %s is unfinished or outdated and left out", name)
        return []

    contexts = records("contexts", TeacherContext)
    return ReportInputs(
        config=bench.config.model_dump(mode="json"),
        environment=folder.read_json("environment.json") or {},
        questions=records("questions", Question),
        rollouts=records("rollouts", Rollout),
        neuron_sets=records("neurons", NeuronSets),
        selection=records("selection", SelectedQuestion),
        contexts=contexts,
        training_metrics=read_json_lines(folder.path / "training" / "metrics.jsonl") if contexts else [],
        training_summary=folder.stage("training").summary() if bench.is_current("training") else None,
        results=folder.read_json("evaluation/results.json"),
        timings=folder.timings(),
        preflight=_preflight(bench),
        prompts_example=bench.show(contexts[0].question_id) if contexts else None,
    )


def _preflight(bench: Workbench) -> dict[str, Any] | None:
    """The label-free verdict, and beneath its measures those that needed answers, where there were any."""
    if not bench.is_current("preflight"):
        return None
    gap = bench.folder.read_json(TEACHER_GAP) or {"measures": []}
    verdict = bench.folder.stage("preflight").summary()
    return {**verdict, "measures": [*verdict["measures"], *gap["measures"]]}


def _card(bench: Workbench) -> str:
    return model_card(_report_inputs(bench))
