"""The stages in order: the method in one file. Read it after records.py.

    questions -> rollouts -> neurons -> select -> contexts -> preflight -> train -> evaluate -> report

Each `make_*` function runs one stage on a run folder: it reads the records of earlier stages, calls the stage's pure
functions, and saves. A stage that is finished and was made from the same inputs is skipped; an interrupted one resumes.
Gold answers are opened by `make_evaluation`, and after the preflight's verdict for the teacher's accuracy, which no
later stage reads.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_opsd import processes
from neuron_opsd.demonstrations import demonstrating_replies, find_neighbours
from neuron_opsd.engines.base import Sampling, sampling_of
from neuron_opsd.errors import UnlikelyToHelpError
from neuron_opsd.evaluation.evaluate import evaluate, teacher_gap
from neuron_opsd.evaluation.general import GeneralSamples
from neuron_opsd.evaluation.options import score_options
from neuron_opsd.files import read_json_lines, write_text
from neuron_opsd.model.base_kl import keep_base_states, kl_from_base
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.neurons.overlap import nearest_neighbours
from neuron_opsd.neurons.sets import resolve_sizes
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
from neuron_opsd.rollouts.pseudo_label import group_by_question, vote
from neuron_opsd.rollouts.sample import sample_rollouts
from neuron_opsd.selection.select import select_questions
from neuron_opsd.stage_folder import StageFolder
from neuron_opsd.stage_inputs import preflight_sampling, reads_neurons
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
    settings = bench.config.rollouts
    _sample_stage(
        bench,
        "rollouts",
        questions=bench.pool,
        settings=settings,
        num_rollouts=settings.num_rollouts,
        shard_size=settings.shard_size,
        model_name=bench.config.model.name,
        random_path="rollouts",
    )


def make_neurons(bench: Workbench) -> None:
    """The neurons behind each question's first rollout."""
    stage, settings = bench.folder.stage("neurons"), bench.config.neurons
    inputs = bench.inputs_of("neurons")
    with bench.stage_run(stage, inputs) as run:
        if not run.is_needed:
            return
        model, tokenizer = bench.base_model()
        sizes = resolve_sizes(model, settings)
        logger.info(
            "neurons: top %d (token, neuron) entries a chunk and layer, overlap sets of %d, of %d layers x %d neurons",
            sizes.num_entries, sizes.overlap_size, sizes.num_layers, sizes.d_ff,
        )  # fmt: skip
        rollouts = list(bench.first_rollouts().values())
        size = bench.config.rollouts.shard_size
        done = stage.begin(inputs) * size
        with track(
            "neurons", total=len(rollouts), unit="completions", done=min(done, len(rollouts))
        ) as progress:

            def on_read(completions: int, tokens: int) -> None:
                progress.advance(completions, tokens=tokens)
                run.num_tokens += tokens

            for start in range(done, len(rollouts), size):
                shard = rollouts[start : start + size]
                captured = capture_neurons(model, tokenizer, shard, settings, on_read=on_read)
                stage.add_shard(list(captured), NeuronSets)
        stage.finish({**dataclasses.asdict(sizes), **_length_correlation(stage.read(NeuronSets))})


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
    settings, questions = bench.config.rollouts, bench.other_questions
    if questions:
        _sample_stage(
            bench,
            "demonstrations",
            questions=questions,
            settings=settings,
            num_rollouts=1,
            shard_size=settings.shard_size,
            model_name=bench.config.model.name,
            random_path="rollouts",
        )


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
            done = min(stage.begin(inputs) * step, len(pairs))
            with track("preflight", total=len(pairs), unit="samples", done=done) as progress:
                for start in range(done, len(pairs), step):
                    items, num_tokens = _look_ahead(bench, pairs[start : start + step], sampling)
                    stage.add_shard(items, PreflightItem)
                    run.num_tokens += num_tokens
                    progress.advance(len(pairs[start : start + step]), tokens=num_tokens)
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
    config, settings = bench.config, bench.config.evaluation
    is_trained = config.training.objective != "none"
    models = {
        "base": config.model.name,
        "trained": str(bench.folder.path / "model") if is_trained else config.model.name,
    }
    general = bench.inputs.general_questions
    rollouts: dict[str, list[Rollout]] = {}
    options: dict[str, list[OptionScores]] = {}
    for role, model_name in models.items():
        reads_context = role == "trained" and settings.context
        if role == "trained" and not is_trained and not reads_context:  # the base itself
            rollouts[role], options[role] = rollouts["base"], options["base"]
            continue
        if reads_context:
            make_other_replies(bench)
            make_test_contexts(bench)
        _sample_stage(
            bench,
            f"evaluation/{role}",
            questions=bench.test_questions,
            contexts="evaluation/contexts" if reads_context else None,
            settings=settings,
            num_rollouts=settings.num_samples,
            shard_size=config.rollouts.shard_size,
            model_name=model_name,
            random_path="evaluation",  # base and trained draw alike, which narrows the paired difference
        )
        rollouts[role] = bench.folder.stage(f"evaluation/{role}").read(Rollout)
        has_options = settings.option_probability and not reads_context
        options[role] = (
            _score_options_stage(bench, role, model_name, bench.test_questions) if has_options else []
        )
        if general and is_trained:
            _sample_stage(
                bench,
                f"evaluation/general_{role}",
                questions=general,
                settings=settings,
                num_rollouts=settings.for_general().num_samples,
                shard_size=config.rollouts.shard_size,
                model_name=model_name,
                random_path="general",
            )
            options[f"general_{role}"] = _score_options_stage(bench, f"general_{role}", model_name, general)
    results = evaluate(
        bench.test_questions,
        rollouts["base"],
        rollouts["trained"],
        settings,
        train_domain=bench.train_domain,
        seed=config.seed,
        options=(options["base"], options["trained"]),
        general=_general_samples(bench, general, models, options) if general and is_trained else None,
        pool=bench.pool,
        pool_rollouts=bench.folder.stage("rollouts").read(Rollout) if "rollouts" in bench.inputs.made else (),
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
    if not stage.begin(inputs):
        stage.add_shard(records, kind)


def _sample_stage(
    bench: Workbench,
    name: str,
    *,
    questions: list[Question],
    settings: Any,
    num_rollouts: int,
    shard_size: int,
    model_name: str,
    random_path: str,
    contexts: str | None = None,
) -> None:
    """Sample rollouts of questions into a stage folder, shard by shard; `contexts`: the stage that is read before."""
    stage, config = bench.folder.stage(name), bench.config
    sampling, shuffle = sampling_of(settings), settings.shuffle_choices
    inputs = bench.inputs_of(name)
    with bench.stage_run(stage, inputs) as run:
        if not run.is_needed:
            return
        done = min(stage.begin(inputs) * shard_size, len(questions))
        engine = bench.engine(model_name, batch_size=settings.batch_size)
        total, finished = len(questions) * num_rollouts, done * num_rollouts
        with track(name, total=total, unit="completions", done=finished) as progress:

            def on_finished(completions: int, tokens: int) -> None:
                progress.advance(completions, tokens=tokens)
                run.num_tokens += tokens

            for start in range(done, len(questions), shard_size):
                rollouts = sample_rollouts(
                    questions[start : start + shard_size],
                    engine,
                    bench.encoder(),
                    prompts=config.prompts,
                    sampling=sampling,
                    num_rollouts=num_rollouts,
                    shuffle_choices=shuffle,
                    seed=config.seed,
                    stage=random_path,
                    messages_of=bench.teacher_messages_of(contexts, questions) if contexts else None,
                    max_context=bench.max_context(),
                    on_finished=on_finished,
                )
                stage.add_shard(rollouts, Rollout)
        summary = _rollout_summary(stage.read(Rollout))
        stage.finish({**summary, "engine": engine.identity()}, Rollout)


def _general_samples(
    bench: Workbench,
    questions: list[Question],
    models: dict[str, str],
    options: dict[str, list[OptionScores]],
) -> GeneralSamples:
    """Both models' samples of the general questions, and their KL on the base model's first sample of each."""
    base, trained = (bench.folder.stage(f"evaluation/general_{role}").read(Rollout) for role in models)
    stage = bench.folder.stage("evaluation/general_kl")
    inputs = bench.inputs_of("evaluation/general_kl")
    with bench.stage_run(stage, inputs) as run:
        if run.is_needed:
            first = [rollout for rollout in base if rollout.rollout_index == 0]
            texts = [(rollout.prompt_ids, rollout.completion_ids) for rollout in first]
            kept = keep_base_states(bench.model(models["base"]), texts)
            sums = kl_from_base(bench.model(models["trained"]), texts, kept)
            records = [
                BaseDivergence(question_id=rollout.question_id, num_tokens=len(rollout.completion_ids), kl=kl)
                for rollout, kl in zip(first, sums, strict=True)
            ]
            _add_only_shard(stage, inputs, records, BaseDivergence)
            stage.finish({}, BaseDivergence)
    return GeneralSamples(
        questions,
        base,
        trained,
        stage.read(BaseDivergence),
        (options["general_base"], options["general_trained"]),
    )


def _score_options_stage(
    bench: Workbench, role: str, model_name: str, asked: list[Question]
) -> list[OptionScores]:
    """The probability that one model gives to each choice of the questions it was asked; none where not wanted."""
    config, stage = bench.config, bench.folder.stage(f"evaluation/{role}_options")
    if not config.evaluation.option_probability:
        return []
    inputs = bench.inputs_of(stage.name)
    questions, size = [q for q in asked if q.choices], config.rollouts.shard_size
    with bench.stage_run(stage, inputs) as run:
        if run.is_needed:
            done = min(stage.begin(inputs) * size, len(questions))
            groups = group_by_question(bench.folder.stage(f"evaluation/{role}").read(Rollout))
            with track(stage.name, total=len(questions), unit="questions", done=done) as progress:
                for start in range(done, len(questions), size):
                    part = questions[start : start + size]
                    scores = score_options(
                        part, groups, bench.model(model_name), bench.encoder(),
                        prompts=config.prompts,
                        batch_size=config.evaluation.batch_size,
                    )  # fmt: skip
                    stage.add_shard(scores, OptionScores)
                    progress.advance(len(part))
            left_out = len(asked) - stage.num_records()
            stage.finish({"num_not_scored": left_out}, OptionScores)
            if left_out:
                logger.info("%s: %d questions have no options that can be scored", stage.name, left_out)
    return stage.read(OptionScores)


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


def _rollout_summary(rollouts: list[Rollout]) -> dict[str, float]:
    total = max(len(rollouts), 1)
    parsed = sum(rollout.answer is not None for rollout in rollouts)
    cut = sum(rollout.finish_reason == "length" for rollout in rollouts)
    tokens = sum(len(rollout.completion_ids) for rollout in rollouts)
    return {
        "num_completions": len(rollouts),
        "num_completion_tokens": tokens,
        "parse_rate": parsed / total,
        "truncated_fraction": cut / total,
        "completion_tokens_mean": tokens / total,
    }


def _length_correlation(sets: list[NeuronSets]) -> dict[str, float | None]:
    """Pearson r of s(x) with completion length, said aloud: a selection by raw s can be one by length."""
    scores = [float(item.consensus_score) for item in sets]
    lengths = [float(item.num_completion_tokens) for item in sets]
    if len(sets) < 3 or len(set(scores)) < 2 or len(set(lengths)) < 2:
        return {"correlation_with_length": None}
    r = pearson(np.array(scores), np.array(lengths))
    logger.info("neurons: correlation of s(x) with length r = %.2f [%.2f, %.2f]", r.value, r.low, r.high)
    return {"correlation_with_length": r.value}


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
