"""The whole method under the chat templates of models that think.

Qwen3's template is the published one, as TRL ships it. SmolLM3's is its essentials in our words (`helpers.SMOLLM3`).
"""

import json
from importlib import resources

import pytest

from end_to_end.conftest import command_for
from end_to_end.test_pipeline import run
from helpers import SMOLLM3
from neuron_opsd.config import load_config
from neuron_opsd.contexts.prompts import show_prompts
from neuron_opsd.model.defaults import resolve
from neuron_opsd.records import NeuronSets, Rollout, TeacherContext
from neuron_opsd.run.session import Run
from neuron_opsd.store.run_folder import RunFolder


def qwen3() -> str:
    return (resources.files(pytest.importorskip("trl")) / "chat_templates" / "qwen3.jinja").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("template", [qwen3, lambda: SMOLLM3], ids=["qwen3", "smollm3"])
def test_every_stage(lettered_model_folder, question_files, tmp_path, monkeypatch, template):
    file, folder = tmp_path / "template.jinja", tmp_path / "run"
    file.write_text(template())
    command = command_for(lettered_model_folder, *question_files)
    given = [f"model.chat_template={file}", "--output", str(folder)]
    assert run([*command, *given], monkeypatch) == 0
    session = Run(RunFolder.open(folder))
    assert session.models.encoder().thinks()

    verdict = json.loads((folder / "preflight" / "verdict.json").read_text())
    names = {entry["name"]: entry for entry in verdict["measures"]}
    assert verdict["thinks"]
    assert any("2607.05184" in reason for reason in verdict["reasons"])
    assert 0 < names["length_ratio"]["student"] <= 4
    assert "2607.05184" in (folder / "report.html").read_text()

    rollouts = {r.question_id: r for r in session.folder.stage("rollouts").read(Rollout)}
    sets = session.folder.stage("neurons").read(NeuronSets)
    assert all(item.num_completion_tokens == len(rollouts[item.question_id].completion_ids) for item in sets)
    for context in session.folder.stage("contexts").read(TeacherContext):
        shown = show_prompts(session, context.question_id)["teacher_prompt"]
        assert shown.count("<|im_start|>assistant") == len(context.demonstrations) + 1
        after_system = shown.partition("<|im_start|>user")[2]
        assert "<think>" not in after_system  # no thinking in demonstrations, no block left open
    assert (folder / "model" / "chat_template.jinja").read_text() == template()
    assert (folder / "evaluation" / "results.json").is_file()


@pytest.mark.parametrize("switch", ["true", "false"])
def test_limits_follow_the_switch(tiny_model_folder, tmp_path, switch):
    file = tmp_path / "template.jinja"
    file.write_text(qwen3())
    overrides = [f"model.chat_template={file}", f"model.template_args={{enable_thinking: {switch}}}"]
    values = {"model.name": str(tiny_model_folder), "questions.path": "q.jsonl"}
    config = resolve(load_config("neuron_opsd", overrides=overrides, values=values))
    expected = 8192 if switch == "true" else 2048
    assert config.rollouts.max_new_tokens == config.training.max_new_tokens == expected
    assert config.evaluation.max_new_tokens == expected
