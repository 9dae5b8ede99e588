"""`questions.domain=all`: trained on each domain of the file, selected and shown within each, evaluated on all."""

import json
from collections import Counter
from pathlib import Path

import pytest

from end_to_end.conftest import command_for, write_questions
from end_to_end.test_pipeline import run
from neuron_opsd.records import Question, SelectedQuestion, TeacherContext
from neuron_opsd.results import Results, load
from neuron_opsd.selection.score import num_kept
from neuron_opsd.store.run_folder import RESULTS, RunFolder

TOGETHER = "all 2 domains"


@pytest.fixture
def two_domains(tmp_path: Path) -> Path:
    sums, more = (
        write_questions(tmp_path / f"{name}.jsonl", name, count)
        for name, count in (("sums", 16), ("more", 12))
    )
    file = tmp_path / "two.jsonl"
    file.write_text(sums.read_text() + more.read_text())
    return file


def answers_to(tmp_path: Path, *files: Path) -> list[str]:
    ids = [json.loads(line)["question_id"] for file in files for line in file.open()]
    key = tmp_path / "answers.jsonl"
    key.write_text("".join(json.dumps({"question_id": name, "answer": "B"}) + "\n" for name in ids))
    return ["--answers", str(key)]


def test_a_run_on_two_domains(
    lettered_model_folder: Path, two_domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    cross = write_questions(tmp_path / "other.jsonl", "other", 6)
    command = command_for(lettered_model_folder, two_domains, cross)
    command += ["training.num_steps=1", "preflight.num_questions=2"]
    answers = answers_to(tmp_path, two_domains, cross)
    output = tmp_path / "run"
    assert run([*command, *answers, "questions.domain=all", "--output", str(output)], monkeypatch) == 0
    said = capsys.readouterr().out
    folder = RunFolder.open(output)
    domains = {question.question_id: question.domain for question in folder.stage("questions").read(Question)}

    selected = folder.stage("selection").read(SelectedQuestion)
    pool = Counter(record.domain for record in selected)
    kept = Counter(record.domain for record in selected if record.selected)
    assert kept == {domain: num_kept(count, 0.4) for domain, count in pool.items()}
    assert set(kept) == {"sums", "more"}
    for context in folder.stage("contexts").read(TeacherContext):
        shown = {domains[one.question_id] for one in context.demonstrations}
        assert shown == {domains[context.question_id]}

    results = load(Results, json.loads((output / RESULTS).read_text()))
    assert (results.train_domain, results.trained_domains) == (TOGETHER, ("more", "sums"))
    assert results.in_domain
    assert results.in_domain.num_questions == sum(block.num_questions for block in results.own.values())
    assert set(results.cross.domains) == {"other"}
    told = " ".join(results.verdicts)
    card, report = (output / name for name in ("model/README.md", "report.md"))
    for name in (TOGETHER, "more", "sums"):
        assert f"In-domain ({name})" in told
        assert f"In-domain: {name}" in card.read_text()
    for place in ("all 2 trained domains", "more (trained)", "sums (trained)"):
        assert place in said
        assert place in report.read_text()
        assert place in (output / "report.html").read_text()
    assert "in the domains more and sums" in card.read_text()
    assert run([*command, *answers, "questions.domain=all", "--output", str(output)], monkeypatch) == 0
    assert "recomputed" not in capsys.readouterr().err


def test_a_comparison_trains_on_one_at_a_time(two_domains: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    command = ["compare", str(tmp_path / "cmp"), "--model", "any", "--questions", str(two_domains)]
    command += answers_to(tmp_path, two_domains)
    assert run([*command, "questions.domain=all"], monkeypatch) == 2
    assert "A comparison trains on each in its turn" in " ".join(capsys.readouterr().err.split())
