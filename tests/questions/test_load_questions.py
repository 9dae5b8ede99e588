import json
import logging
import random
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_opsd.config import QuestionSettings
from neuron_opsd.errors import ConfigError, DataError
from neuron_opsd.questions.load import content_id, domains_of, load_questions
from neuron_opsd.records import Question


def rows_of(count: int, *, domain: str = "biology", start: int = 0) -> list[dict]:
    return [
        {
            "question_id": f"{domain}-{k}",
            "domain": domain,
            "question": f"{domain} question {k}?",
            "choices": ["yes", "no"],
        }
        for k in range(start, start + count)
    ]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(path: str, **settings) -> list[Question]:
    return load_questions(QuestionSettings(path=path, **settings))


def ids(questions: list[Question], split: str) -> list[str]:
    return [question.question_id for question in questions if question.split == split]


def content(question: Question) -> str:
    return content_id(question.question, question.choices)


def test_the_split_depends_on_content_alone(tmp_path):
    rows = rows_of(200)
    questions = load(write(tmp_path / "a.jsonl", rows))
    random.Random(0).shuffle(rows)
    assert load(write(tmp_path / "b.jsonl", rows)) == questions
    # Leaving out half of the questions moves none of the others.
    half = load(write(tmp_path / "c.jsonl", rows[:100]))
    assert set(ids(half, "test")) == set(ids(questions, "test")) & {row["question_id"] for row in rows[:100]}


def test_the_split_has_about_the_size_asked_for_and_moves_with_the_seed(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(1000))
    first, second = (ids(load(path, seed=seed), "test") for seed in (0, 1))
    assert 160 <= len(first) <= 240  # 200 expected, 3 standard deviations
    assert 160 <= len(second) <= 240
    assert len(set(first) & set(second)) < 80
    assert ids(load(path, test_fraction=0), "test") == []


def test_the_split_is_pinned(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(12))
    assert ids(load(path), "test") == PINNED_TEST


def test_caps_keep_the_first_by_hash(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(100))
    full = load(path)
    capped = load(path, max_train=10, max_test=5)
    assert ids(capped, "train") == ids(full, "train")[:10]
    assert ids(capped, "test") == ids(full, "test")[:5]


def test_the_cap_holds_for_each_test_domain(tmp_path):
    rows = rows_of(60) + rows_of(60, domain="physics")
    cross = write(tmp_path / "c.jsonl", rows_of(30, domain="law"))
    questions = load(write(tmp_path / "a.jsonl", rows), domain="physics", cross_paths=(cross,), max_test=4)
    domains = [question.domain for question in questions if question.split == "test"]
    assert domains == ["physics"] * 4 + ["biology"] * 4 + ["law"] * 4


def test_one_domain_trains_the_others_are_tested(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(50) + rows_of(20, domain="physics"))
    questions = load(path, domain="biology")
    assert {question.domain for question in questions if question.split == "train"} == {"biology"}
    assert sum(question.domain == "physics" for question in questions) == 20
    assert all(question.split == "test" for question in questions if question.domain == "physics")
    both = load(path, domain="all")
    assert {question.domain for question in both if question.split == "train"} == {"biology", "physics"}


def test_all_trains_on_each_domain_and_caps_hold_for_each(tmp_path):
    rows = rows_of(60) + rows_of(60, domain="physics")
    path = write(tmp_path / "a.jsonl", rows)
    alone = {domain: load(path, domain=domain, max_train=9, max_test=4) for domain in ("biology", "physics")}
    together = load(path, domain="all", max_train=9, max_test=4)
    for split in ("train", "test"):
        own = [name for domain in alone for name in ids(alone[domain], split) if name.startswith(domain)]
        assert ids(together, split) == own  # the same questions as alone


def test_all_of_one_domain_is_that_one(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(50))
    assert load(path, domain="all") == load(path)


def test_a_domain_whose_name_is_all_is_meant_alone(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", rows_of(50) + rows_of(50, domain="all"))
    assert domains_of(q for q in load(path, domain="all") if q.split == "train") == ["all"]
    assert "has a domain of that name, and it alone is trained on" in caplog.text


def test_several_domains_need_a_word_on_which(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(20) + rows_of(20, domain="law"))
    with pytest.raises(ConfigError, match=r"holds 2 domains \(biology, law\).*domain=biology.*domain=all"):
        load(path)


def test_a_domain_with_no_test_question_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(50) + rows_of(1, domain="law"))
    with pytest.raises(
        DataError, match=r"None of the 1 in-domain .*\(domain law\) falls into the test split"
    ):
        load(path, domain="all")


def test_equal_content_is_kept_once_first_kept(tmp_path, caplog):
    again = {"question_id": "copy", "question": "biology  question 3?", "choices": ["no", "yes"]}
    questions = load(write(tmp_path / "a.jsonl", [*rows_of(40), again]))
    assert len(questions) == 40
    assert "copy" not in {question.question_id for question in questions}
    assert "dropped 1 questions of equal content: copy (as biology-3 of biology)" in caplog.text


def test_train_and_test_share_no_content_across_files(tmp_path, caplog):
    shared = [row | {"question_id": f"x{k}", "domain": "law"} for k, row in enumerate(rows_of(20))]
    cross = write(tmp_path / "c.jsonl", shared + rows_of(5, domain="law", start=100))
    mixed = [row | {"question_id": f"y{k}", "domain": "other"} for k, row in enumerate(rows_of(10))]
    path = write(tmp_path / "a.jsonl", [*mixed, *rows_of(2, domain="other"), *rows_of(50)])
    questions = load(path, domain="biology", cross_paths=(cross,), max_train=10)
    assert len({content(question) for question in questions}) == len(questions)
    assert [question.domain for question in questions].count("law") == 5
    assert [question.domain for question in questions].count("other") == 2
    assert f"{cross}: dropped 20 questions of equal content" in caplog.text
    assert "dropped 10 questions of equal content" in caplog.text


def test_counts_are_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        load(write(tmp_path / "a.jsonl", rows_of(100)), max_train=10)
    assert "questions: 10 in the pool (biology 10)" in caplog.text
    assert "questions.max_train: kept 10 of" in caplog.text


def test_an_unknown_domain_names_those_there_are(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(5) + rows_of(5, domain="law"))
    with pytest.raises(DataError, match=r"questions.domain is 'chem', but .* has only: biology, law\."):
        load(path, domain="chem")


def test_an_id_in_two_files_with_two_contents(tmp_path):
    cross = write(tmp_path / "c.jsonl", [{"question_id": "biology-1", "question": "Another?"}])
    with pytest.raises(DataError, match=r"c\.jsonl: question_id 'biology-1' already names another"):
        load(write(tmp_path / "a.jsonl", rows_of(50)), cross_paths=(cross,))


@pytest.mark.parametrize(("fraction", "split"), [(0.999999, "train"), (1e-9, "test")])
def test_a_split_with_no_question(tmp_path, fraction, split):
    with pytest.raises(DataError, match=f"None of the 5 in-domain questions .* falls into the {split} split"):
        load(write(tmp_path / "a.jsonl", rows_of(5)), test_fraction=fraction)


def test_a_cross_file_that_adds_nothing(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(50))
    with pytest.raises(DataError, match="adds no question"):
        load(path, cross_paths=(write(tmp_path / "c.jsonl", rows_of(3)),))


def test_reading_questions_needs_no_torch(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(3))
    code = (
        "import sys; from neuron_opsd.questions.load import read_questions; "
        f"read_questions({path!r}); print([name for name in ('torch', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PINNED_TEST = ["biology-0", "biology-2"]
