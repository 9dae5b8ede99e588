"""Figures of a comparison, from results of a few questions worked by hand."""

import csv
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from neuron_opsd.comparison.cells import NOT_RUN, status
from neuron_opsd.comparison.gather import gather
from neuron_opsd.comparison.plan import Cell, Plan, cell_folder
from neuron_opsd.comparison.table import Row, Table
from neuron_opsd.comparison.write import write_comparison
from neuron_opsd.errors import ConfigError
from neuron_opsd.results import (
    Both,
    Change,
    Changes,
    DomainResult,
    Domains,
    QuestionResult,
    Results,
    Simulated,
    dump,
)
from neuron_opsd.store.run_folder import RESULTS, RunFolder

PLAN = Plan(
    recipes=("base", "neuron_opsd", "random_context", "full_pool"),
    model="m",
    questions=("a", "b"),
    answers=("k",),
    seeds=(0,),
)
CELLS = [
    Cell("base", None, 0),
    *(Cell(recipe, source, 0) for recipe in PLAN.recipes[1:] for source in ("a", "b")),
]
NUM = 40


def rows(base: float, trained: dict[str, float]) -> tuple[QuestionResult, ...]:
    """40 questions of each domain; the first of them are right, in the shares given."""
    made = []
    for domain in ("a", "b"):
        for i in range(NUM):
            before, after = (float(i < share * NUM) for share in (base, trained[domain]))
            outcomes = ("A", 0.75, before, before, "A", 0.75, after, after)
            made.append(QuestionResult(f"{domain}{i:02}", domain, *outcomes))
    return tuple(made)


def results(train_domain: str, questions: tuple[QuestionResult, ...], *others: str) -> Results:
    """Of which a comparison reads the settings, the names of the domains and the questions."""
    change = Change(label="", value=0.0, by_chance=Simulated(0.0, 0.0, 0.0), num_questions=NUM, verdict="")
    domain = DomainResult(
        num_questions=NUM, num_with_gold=NUM, num_without_gold=0, num_ties=Both(0, 0), majority_class=None,
        metrics={}, confidence_kinds={}, answer_distribution=None, changes=Changes(answers_flipped=change),
    )  # fmt: skip
    return Results(
        num_samples=8, temperature=0.6, top_p=1.0, num_bins=15, num_bootstrap=400, level=0.95, seed=0,
        train_domain=train_domain, num_not_scored=0, in_domain=domain,
        cross=Domains(domains=dict.fromkeys(others, domain), mean=None),
        verdicts=(), questions=questions, pool_questions=(), general=None,
    )  # fmt: skip


def save(folder: Path, cell: Cell, *, base: float = 0.5, trained: dict[str, float] | None = None) -> None:
    source = cell.source or "a"
    questions = rows(base, trained or {"a": base, "b": base})
    finish(cell_folder(folder, cell), results(source, questions, "b" if source == "a" else "a"))


def finish(path: Path, found: Results) -> None:
    path.mkdir(parents=True, exist_ok=True)
    RunFolder(path).write_result(RESULTS, dump(found), is_ordered=True)
    (path / "cell.json").write_text("{}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path, CELLS[0])
    for source, other in (("a", "b"), ("b", "a")):
        save(tmp_path, Cell("neuron_opsd", source, 0), trained={source: 0.9, other: 0.6})
        save(tmp_path, Cell("random_context", source, 0), trained={source: 0.1, other: 0.5})
    failed = cell_folder(tmp_path, Cell("full_pool", "a", 0))
    failed.mkdir(parents=True)
    (failed / "error.json").write_text('{"error": "DataError: too_long & 100%"}')
    return tmp_path


def found(folder: Path) -> dict[tuple[str, str, str], Row]:
    table = Table(PLAN, gather(PLAN, CELLS, folder))
    return {(row.method, row.place, row.metric): row for row in table.rows()}


def test_means_in_domain_and_cross_domain(folder: Path) -> None:
    by_key = found(folder)
    assert by_key["base", "in", "avg"].found.value == pytest.approx(0.5)
    assert by_key["neuron_opsd", "in", "avg"].found.value == pytest.approx(0.9)
    assert by_key["neuron_opsd", "cross", "avg"].found.value == pytest.approx(0.6)
    assert by_key["neuron_opsd", "in", "avg"].difference.value == pytest.approx(0.4)
    assert by_key["neuron_opsd", "in", "ece"].found.value == pytest.approx(0.15)  # |0.9 - 0.75|
    assert by_key["random_context", "in", "ece"].found.value == pytest.approx(0.65)


def test_marks(folder: Path) -> None:
    by_key = found(folder)
    assert by_key["neuron_opsd", "in", "avg"].marks == ("best", "better than base")
    assert by_key["random_context", "in", "avg"].marks == ("worse than base",)
    assert by_key["random_context", "cross", "avg"].marks == ()  # as base: no difference, p = 1
    assert by_key["random_context", "cross", "avg"].p_holm == 1.0
    assert by_key["base", "in", "avg"].marks == ()


def test_holm_is_over_the_recipes_of_a_column(folder: Path) -> None:
    by_key = found(folder)
    first, second = (by_key[name, "in", "avg"] for name in ("neuron_opsd", "random_context"))
    assert first.p == second.p == pytest.approx(2 / 401)
    assert first.p_holm == second.p_holm == pytest.approx(4 / 401)


def test_beyond_the_base_models_majority(folder: Path) -> None:
    by_key = found(folder)
    gain = by_key["neuron_opsd", "in", "beyond_majority"]
    assert gain.found.value == pytest.approx(0.4)  # Avg .9, and every base answer is its question's majority
    assert gain.marks == ("beyond the base's majority",)
    assert by_key["random_context", "in", "beyond_majority"].marks == ("below the base's majority",)
    write_comparison(PLAN, CELLS, folder, [])
    assert "Avg minus base Maj@8 in" in (folder / "table.md").read_text()


def with_k_samples(questions: tuple[QuestionResult, ...], voted: float | None) -> tuple[QuestionResult, ...]:
    """The same answers, of which the k samples together are worth this much."""
    of_base = {"base_pass_fraction": 0.8, "base_voted_correct": voted}
    of_trained = {"trained_pass_fraction": 0.75, "trained_voted_correct": voted}
    return tuple(replace(row, **of_base, **of_trained) for row in questions)


@pytest.mark.parametrize(("is_exact", "voted", "votes_avg"), [(False, None, 0.5), (True, 0.7, 0.7)])
def test_base_with_votes_is_a_row_without_marks(
    tmp_path: Path, is_exact: bool, voted: float | None, votes_avg: float
) -> None:
    cell = Cell("neuron_opsd", "a", 0)
    questions = with_k_samples(rows(0.5, {"a": 0.9, "b": 0.9}), voted)
    finish(cell_folder(tmp_path, cell), replace(results("a", questions, "b"), is_exact=is_exact))
    by_key = found(tmp_path)
    votes = by_key["base_votes", "in", "avg"]
    assert (votes.found.value, votes.marks, votes.p) == (pytest.approx(votes_avg), (), None)
    assert by_key["neuron_opsd", "in", "beyond_majority"].found.value == pytest.approx(0.9 - votes_avg)
    assert by_key["base", "in", "pass_at_k"].found.value == pytest.approx(0.8)
    assert by_key["neuron_opsd", "cross", "pass_at_k"].found.value == pytest.approx(0.75)
    assert (("base", "in", "maj_at_k") in by_key) == is_exact
    # One answer, which is a vote, has no votes of its own to be sure by, and is one try.
    assert not {("base_votes", "in", name) for name in ("ece", "pass_at_k")} & by_key.keys()
    write_comparison(PLAN, CELLS, tmp_path, [])
    assert "| base with 8 votes |" in (tmp_path / "table.md").read_text()


def test_the_best_within_noise(tmp_path: Path) -> None:
    save(tmp_path, CELLS[0])
    save(tmp_path, Cell("neuron_opsd", "a", 0), trained={"a": 0.525, "b": 0.5})
    by_key = found(tmp_path)
    assert by_key["neuron_opsd", "in", "avg"].marks == ("best",)
    assert by_key["base", "in", "avg"].marks == ("best within noise",)  # one question of forty


def test_methods_that_tie_are_no_best(tmp_path: Path) -> None:
    """Two recipes with the same figure share it; where all have it, nothing is said."""
    save(tmp_path, CELLS[0])
    for recipe in ("neuron_opsd", "random_context"):
        save(tmp_path, Cell(recipe, "a", 0), trained={"a": 0.9, "b": 0.5})
    by_key = found(tmp_path)
    for recipe in ("neuron_opsd", "random_context"):
        assert by_key[recipe, "in", "avg"].marks == ("best within noise", "better than base")
        assert by_key[recipe, "cross", "avg"].marks == ()  # as base
    assert by_key["base", "cross", "avg"].marks == ()


def test_no_calibration_error_of_votes_that_were_not_read(folder: Path) -> None:
    path = cell_folder(folder, Cell("random_context", "a", 0))
    saved = RunFolder(path).load_result(RESULTS, Results)
    finish(path, replace(saved, questions=tuple(replace(q, trained_answer=None) for q in saved.questions)))
    by_key = found(folder)
    assert ("random_context", "in", "ece") not in by_key
    assert by_key["random_context", "in", "avg"].found.value == pytest.approx(0.1)
    assert by_key["neuron_opsd", "in", "ece"].found.value == pytest.approx(0.15)
    write_comparison(PLAN, CELLS, folder, [])
    assert (
        "No calibration error is shown of random_context: hardly any answer"
        in (folder / "report.html").read_text()
    )


def test_the_page_opens_with_the_sentence_and_the_table(folder: Path) -> None:
    write_comparison(PLAN, CELLS, folder, [])
    page = (folder / "report.html").read_text()
    said = "".join(re.sub(r"<[^>]*>", "", page.partition('<p class="lead">')[2].partition("</p>")[0]))
    assert said.startswith("Against the base model, neuron_opsd is better in Avg@8 in-domain")
    assert "random_context is worse in Avg@8 in-domain" in said
    assert page.index('class="lead"') < page.index("<table") < page.index("<svg")
    assert 'class="verdict bad">worse than base' in page
    assert 'class="verdict good">better than base' in page


def test_the_share_of_demonstrations_of_the_own_template(folder: Path) -> None:
    for source, share in (("a", 0.75), ("b", 0.5)):
        stage = cell_folder(folder, Cell("neuron_opsd", source, 0)) / "contexts"
        stage.mkdir()
        summary = {"same_template_fraction": share, "same_template_by_chance": 0.25}
        (stage / "manifest.json").write_text(json.dumps({"summary": summary}))
    write_comparison(PLAN, CELLS, folder, [])
    assert "| neuron_opsd | a | 75% | 25% |" in (folder / "table.md").read_text()
    assert "neuron_opsd,b,0.5,0.25" in (folder / "templates.csv").read_text()
    assert '75%</span> <span class="whole">(25%)' in (folder / "report.html").read_text()


def test_an_upper_bound_with_gold_answers_is_marked_and_no_candidate(folder: Path) -> None:
    without = found(folder)
    bound = "gold_upper_bound"
    plan = replace(PLAN, recipes=(*PLAN.recipes, bound))
    cells = [*CELLS, *(Cell(bound, source, 0) for source in ("a", "b"))]
    for cell in cells[-2:]:
        save(folder, cell, trained={"a": 1.0, "b": 1.0})
    table = Table(plan, gather(plan, cells, folder))
    rows = {(row.method, row.place, row.metric): row for row in table.rows()}
    assert rows[bound, "in", "avg"].found.value == 1.0
    assert rows[bound, "in", "avg"].marks == ()
    assert {
        key: row for key, row in rows.items() if key[0] != bound
    } == without  # best, marks and Holm as before
    write_comparison(plan, cells, folder, [])
    mark = "gold_upper_bound (USES GOLD ANSWERS: upper bound)"
    for name in ("table.csv", "grid.csv", "table.md", "table.tex", "report.md", "report.html"):
        assert mark in (folder / name).read_text().replace("\\_", "_"), name


def test_failed_and_missing_cells_are_named_in_every_table(folder: Path) -> None:
    assert write_comparison(PLAN, CELLS, folder, ["A note."])
    text, tex, page = ((folder / name).read_text() for name in ("table.md", "table.tex", "report.html"))
    line = next(line for line in text.splitlines() if line.startswith("| full_pool"))
    assert "failed: 1 of 2 cells (DataError: too_long &amp; 100%)" in line
    assert "not run: 1 of 2 cells" in line
    assert r"too\_long \& 100\%" in tex
    assert "not run: 1 of 2 cells" in page
    assert "No evaluation yet" not in page
    assert (folder / "table.csv").read_text().count("neuron_opsd,in,") == 4
    assert (folder / "grid.csv").read_text().count("neuron_opsd,a,b,1,avg") == 1


def test_different_questions_are_not_compared(folder: Path) -> None:
    path = cell_folder(folder, Cell("neuron_opsd", "a", 0))
    saved = RunFolder(path).load_result(RESULTS, Results)
    finish(path, replace(saved, questions=saved.questions[1:]))
    with pytest.raises(Exception, match="different questions of a"):
        found(folder)


@pytest.mark.parametrize(
    ("overrides", "is_refused"),
    [((), True), (("prompts.answer_format=letter", "evaluation.exact=true"), False)],
)
def test_recipes_that_ask_in_different_ways_are_not_compared(
    tmp_path: Path, overrides: tuple[str, ...], is_refused: bool
) -> None:
    key = tmp_path / "key.jsonl"
    key.write_text("")
    recipes = ("base", "order_average", "base_order_average", "base_context")
    plan = Plan(recipes=recipes, model="m", questions=("q",), answers=(str(key),), overrides=overrides)
    message = (
        r"prompts.answer_format is reasoned in base and letter in order_average; evaluation.exact is false in base and "
        r"true in order_average.*one value, as in: prompts.answer_format=letter evaluation.exact=true"
    )
    with pytest.raises(ConfigError, match=message) if is_refused else nullcontext():
        plan.check()


def test_hostile_names_stay_text_in_every_table(tmp_path: Path) -> None:
    """A domain, a recipe's name and a failure that a question file or a server chose."""
    domain = "sums\n\\write18{id}`<script>x</script>`|=cmd\x1b[31m\u202e"
    cells = [Cell("base", None, 0), Cell("neuron_opsd", domain, 0), Cell("random_context", domain, 0)]
    for cell in cells[:2]:
        questions = tuple(replace(row, domain=domain) for row in rows(0.5, {"a": 0.9, "b": 0.9}))
        finish(cell_folder(tmp_path, cell), results(domain, questions))
    failed = cell_folder(tmp_path, cells[2])
    failed.mkdir(parents=True)
    (failed / "error.json").write_text(json.dumps({"error": f"=1+1 {domain}"}))
    assert write_comparison(PLAN, cells, tmp_path, [f"In {domain}", "\\input{/etc/passwd}\n\\input{b}"])
    for name in ("table.md", "table.tex", "table.csv", "grid.csv", "report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert not set(text) & set("\x1b\u202e\r"), name
        assert "<script>x" not in text or name.endswith((".tex", ".csv")), name
    tex = (tmp_path / "table.tex").read_text().splitlines()
    assert not [line for line in tex if r"\write18" in line and not line.startswith("%")]
    assert not [line for line in tex if line.startswith(r"\input")]
    for name in ("table.csv", "grid.csv"):
        with (tmp_path / name).open(newline="") as file:
            assert not [cell for row in csv.reader(file) for cell in row if cell[:1] in tuple("=@+")]


def test_a_cell_of_another_versions_results_is_not_finished(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = cell_folder(folder, Cell("neuron_opsd", "a", 0))
    saved = RunFolder(path).read_result(RESULTS)
    del saved["cross"]["mean"]
    RunFolder(path).write_result(RESULTS, saved)
    assert status(path) == (NOT_RUN, "")
    assert "results.json is not what this version writes (cross.mean: Field required)" in caplog.text
    assert "`neuron-opsd evaluate RUN`" in caplog.text
    assert ("neuron_opsd", "a", "a") not in gather(PLAN, CELLS, folder).answers
