"""`improve` and its `Result`: what they refuse and how a report is shown. `examples/improve.py` is the whole of it."""

import json
from pathlib import Path

import pytest

from neuron_opsd import Result, improve
from neuron_opsd.commands.improve import Report
from neuron_opsd.config import load_config
from neuron_opsd.errors import ConfigError, NeuronOpsdError, RunFolderError
from neuron_opsd.store.run_folder import RunFolder

MODEL = "embedded:smollm2-135m"


@pytest.mark.parametrize(
    ("questions", "settings", "said"),
    [
        ("nowhere.jsonl", {}, r"nowhere\.jsonl"),
        ([], {}, "questions is empty"),
        (["a?"], {"training": {"num_stepz": 2}}, r"training\.num_stepz"),
        (["a?"], {"training": {"lora": {"rank": 0}}}, r"training\.lora\.rank"),
        (["a?"], {"sede": 1}, "sede"),
        (["a?"], {"recipe": "neuron_opsds"}, "No recipe 'neuron_opsds'"),
        (["a?"], {"recipe": 3}, "recipe is 3"),
        (["a?"], {"answers": 5}, "answers is 5"),
        ({"question": "a?", "choices": ["b", "c"]}, {}, "questions is of type dict"),
        (b"a?", {}, "questions is of type bytes"),
        (5, {}, "questions is of type int"),
        (["a?", 5], {}, r"questions\[1\] is 5"),
        ([{"question": "a?", "choices": {"b", "c"}}], {}, r"questions\[0\] cannot be written as JSON"),
    ],
)
def test_what_the_command_line_refuses_is_refused(tmp_path: Path, questions, settings, said: str) -> None:
    with pytest.raises(NeuronOpsdError, match=said):
        improve(MODEL, questions, output=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_places_are_texts_or_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="output is None"):
        improve(MODEL, ["a?"], output=None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="folder is 5"):
        Result(5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(NeuronOpsdError, match=r"No folder or file .*nowhere"):
        improve(tmp_path / "nowhere", ["a?"], output=tmp_path / "run")


def test_rows_are_written_beside_the_run(tmp_path: Path) -> None:
    rows = ["one?", {"question": "two?", "choices": ["a", "b"]}]
    with pytest.raises(ConfigError):
        improve("no such model", rows, output=tmp_path / "new" / "run", seed=-1.5)
    lines = (tmp_path / "new" / "run.questions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"question": "one?"}, rows[1]]


def test_a_result_of_an_unfinished_run(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config(load_config("neuron_opsd", values={"model.name": "any", "questions.path": "any"}))
    result = Result(tmp_path / "run")
    assert result.results is None
    for look in (
        result.report,
        lambda: result.model_folder,
        lambda: result.ask("a?"),
        lambda: result.push("o/m"),
    ):
        with pytest.raises(RunFolderError):
            look()
    with pytest.raises(RunFolderError, match="does not exist"):
        Result(tmp_path / "nothing")


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text('<h1 title="x">R&amp;D</h1><script>1</script>')
    shown = Report(page)._repr_html_()
    assert shown.count("<") == 2  # the frame alone
    assert "&lt;h1 title=&quot;x&quot;&gt;R&amp;amp;D" in shown
