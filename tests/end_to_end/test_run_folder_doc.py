"""docs/run_folder.md against the files that a run writes: schemas, JSON keys, and the lines that open them."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from end_to_end.fork_run import WholeRun
from neuron_opsd import records
from neuron_opsd.config.graph import STAGES_BEFORE
from neuron_opsd.store.arrow import schema_of

TEXT = (Path(__file__).parents[2] / "docs" / "run_folder.md").read_text(encoding="utf-8")


def documented() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Of each record: the stages that hold it, and its columns with their types."""
    found = {}
    for section in TEXT.split("\n### ")[1:]:
        name, _, rest = section.partition("\n")
        stages = re.findall(r"`([a-z_/]+)`", rest.split("\n\n")[0])
        found[name] = (stages, dict(re.findall(r"^\| `(\w+)` \| (\S.*?) \| ", rest, re.MULTILINE)))
    return found


def plain(schema) -> dict[str, str]:
    return {field.name: re.sub(r"list<\w+: ", "list<", str(field.type)) for field in schema}


@pytest.mark.parametrize("name", documented())
def test_the_document_has_every_column(name: str) -> None:
    assert documented()[name][1] == plain(schema_of(getattr(records, name)))


def test_the_document_has_every_stage_with_records() -> None:
    stages = [stage for stages, _ in documented().values() for stage in stages]
    assert sorted(stages) == sorted(STAGES_BEFORE.keys() - {"training"})


def test_the_files_have_the_documented_columns(whole_run: WholeRun) -> None:
    kinds = {stage: columns for stages, columns in documented().values() for stage in stages}
    files = list(whole_run.folder.rglob("*.parquet"))
    assert len(files) > 10
    for file in files:
        stage = str(file.parent.relative_to(whole_run.folder))
        assert plain(pq.read_schema(file)) == kinds[stage], file


def test_the_json_files_have_the_documented_keys(whole_run: WholeRun) -> None:
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", TEXT.split("## JSON files")[1], re.MULTILINE)
    keys = {what: set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", said))) for what, said in rows}
    for file in whole_run.folder.rglob("manifest.json"):
        manifest = json.loads(file.read_text())
        assert manifest.keys() == keys["`STAGE/manifest.json`"]
        assert all(shard.keys() == keys["an entry of `shards`"] for shard in manifest["shards"])
        assert all(entry.keys() == {"file", "sha256"} for entry in manifest["files"])
    lines = (whole_run.folder / "timings.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    parts = keys["training's line also"]
    for row in rows:
        more = parts if row["stage"] == "training" else set()
        assert row.keys() == keys["a line of `timings.jsonl`"] | more
    (shares,) = ([row[part] for part in parts] for row in rows if row["stage"] == "training")
    assert sum(shares) == pytest.approx(1, abs=0.01)
    assert min(shares) > 0


@pytest.mark.parametrize("line", re.findall(r"```python\n(.*?)\n```", TEXT))
def test_each_line_of_the_document_opens_the_records(
    whole_run: WholeRun,
    line: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    assert "\n" not in line
    exec(line.replace("RUN/", f"{whole_run.folder}/").replace('"RUN"', repr(str(whole_run.folder))), {})
    assert capsys.readouterr().out.strip()
