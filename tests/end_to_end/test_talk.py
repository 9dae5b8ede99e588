"""`ask`, `chat` and `serve`: the answers are those of the run's evaluation, and whatever is wrong is refused."""

import importlib.util
import inspect
import json
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from end_to_end.fork_run import WholeRun
from engines.vllm_environment import ENVIRONMENT, NEEDS_VLLM, PYTHON
from neuron_opsd.cli import app
from neuron_opsd.commands.ask import answers_of, ask, describe_answers, make_reply, settings_for, shown_reply
from neuron_opsd.commands.chat import Chat
from neuron_opsd.commands.serve import server_command
from neuron_opsd.commands.speakers import Speakers
from neuron_opsd.errors import ConfigError, DataError, NeuronOpsdError, RunFolderError
from neuron_opsd.records import OptionScores, Question
from neuron_opsd.store.run_folder import RunFolder


@pytest.fixture(scope="module")
def speakers(whole_run: WholeRun) -> Speakers:
    return Speakers(RunFolder.open(whole_run.folder))


def changed_run(whole_run: WholeRun, folder: Path, **sections: dict[str, object]) -> Path:
    """The run with other settings, as far as talking looks."""
    shutil.copytree(whole_run.folder / "training", folder / "training")
    shutil.copytree(whole_run.folder / "model", folder / "model")
    shutil.copy(whole_run.folder / "neuron_opsd.json", folder)
    tree = yaml.safe_load((whole_run.folder / "config.yaml").read_text())
    for section, values in sections.items():
        tree[section] |= values
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    return folder


def publish_adapter_alone(whole_run: WholeRun, run: Path) -> None:
    """As training.save=adapter does."""
    shutil.rmtree(run / "model")
    shutil.copytree(whole_run.folder / "model" / "adapter", run / "model")
    stage = RunFolder(run).stage("training")
    stage.begin({"seed": 0})
    stage.finish({})


def said(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=given)


def refusal(*arguments: str) -> str:
    outcome = said(*arguments)
    assert isinstance(outcome.exception, NeuronOpsdError), outcome.output
    assert outcome.exception.exit_status == 2
    return str(outcome.exception)


def test_option_probabilities_are_those_of_the_evaluation(whole_run: WholeRun, speakers: Speakers) -> None:
    folder = RunFolder.open(whole_run.folder)
    questions = [q for q in folder.stage("questions").read(Question) if q.split == "test"]
    question = questions[0]
    for answers in ask(speakers, question.question, question.choices):
        scores = folder.stage(f"evaluation/{answers.role}_options").read(OptionScores)
        stored = next(score for score in scores if score.question_id == question.question_id)
        assert answers.option_probabilities is not None
        assert list(answers.option_probabilities) == ["A", "B", "C", "D"]
        assert list(answers.option_probabilities.values()) == pytest.approx(stored.probabilities, rel=1e-4)
        assert answers.option_mass == pytest.approx(stored.option_mass, rel=1e-4)
        assert len(answers.replies) == 3  # evaluation.num_samples


def test_replies_are_those_of_the_evaluation(whole_run: WholeRun, speakers: Speakers) -> None:
    """The question of the run under its own id draws what the evaluation drew."""
    from neuron_opsd.records import Rollout

    folder = RunFolder.open(whole_run.folder)
    question = next(q for q in folder.stage("questions").read(Question) if q.split == "test")
    for role in speakers.roles:
        found = answers_of(speakers, role, question, settings_for(speakers, None))
        stored = folder.stage(f"evaluation/{role}").read(Rollout)
        own = [r.reply for r in stored if r.question_id == question.question_id]
        assert [reply.text for reply in found.replies] == own


def test_exact_runs_answer_from_one_pass(whole_run: WholeRun, tmp_path: Path) -> None:
    run = changed_run(whole_run, tmp_path, evaluation={"exact": True, "order_average": True})
    exact = Speakers(RunFolder.open(run))
    for answers, num_orders in zip(ask(exact, "What is 2 + 2?", ["3", "4"]), (1, 2), strict=True):
        assert len(answers.replies) == num_orders  # the trained model answers in each cyclic order
        assert answers.is_exact
        assert sum(answers.shares.values()) == pytest.approx(1, abs=1e-4)
        assert answers.vote_share == max(answers.shares.values())
    with pytest.raises(ConfigError, match="needs its choices"):
        next(ask(exact, "What is 2 + 2?"))
    with pytest.raises(ConfigError, match="Leave --samples out"):
        next(ask(exact, "What is 2 + 2?", ["3", "4"], num_samples=4))


def test_ask_prints_both_models_and_json_has_every_reply(whole_run: WholeRun) -> None:
    asked = ("ask", str(whole_run.folder), "What is 2 + 2?", "--choices", "3", "--choices", "4")
    shown = said(*asked, "--samples", "2")
    assert shown.exit_code == 0, shown.output
    assert shown.output.split()[:2] == ["base", "trained"]
    assert "of 2" in shown.output
    assert "option probability" in shown.output
    tree = json.loads(said(*asked, "--json", "--model", "trained").stdout)
    assert tree["choices"] == ["3", "4"]
    (answers,) = tree["models"].values()
    assert len(answers["replies"]) == 3
    assert sum(share["share"] for share in answers["shares"]) == pytest.approx(1)


def test_foreign_text_does_not_steer_the_terminal(whole_run: WholeRun) -> None:
    shown = said("ask", str(whole_run.folder), "2?", "--choices", "\x1b[31m[bold]3", "--choices", "4")
    assert "\x1b" not in shown.output
    assert "[bold]3" in shown.output  # nor the library that prints


def test_thinking_is_folded_and_a_cut_is_marked() -> None:
    reply = make_reply("<think>two and two</think>\nThe answer is 4", answer="4", is_cut=False, num_tokens=9)
    assert shown_reply(reply) == "[thinking: 3 words]\nThe answer is 4"
    assert "<think>two and two</think>" in shown_reply(reply, shows_thinking=True)
    cut = make_reply("<think>two and two and", answer=None, is_cut=True, num_tokens=5)
    assert shown_reply(cut) == "[thinking: 4 words]\n[cut at 5 tokens]"


def test_each_model_keeps_its_own_history(speakers: Speakers) -> None:
    chat = Chat(speakers, max_new_tokens=3)
    first = chat.say("Hello")
    assert set(first) == {"base", "trained"}
    assert [turn["role"] for turn in chat.histories["base"]] == ["user", "assistant"]
    second = chat.say("Hello")
    assert chat.histories["trained"][1]["content"] == first["trained"].text
    assert chat.histories["trained"][3]["content"] == second["trained"].text
    before = {role: list(history) for role, history in chat.histories.items()}
    with pytest.raises(DataError, match="/reset"):
        chat.say("x " * 3000)
    assert chat.histories == before
    chat.reset()
    assert chat.say("Hello") == first  # the same conversation, the same reply


def test_chat_in_the_terminal(whole_run: WholeRun) -> None:
    typed = "Hello\n\n/help\n/fly\n/reset\n/quit\nnever read\n"
    shown = said("chat", str(whole_run.folder), "--max-new-tokens", "3", given=typed)
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("base  ") == 1  # one turn
    assert "/fly is no command" in shown.output
    assert "The conversation is forgotten" in shown.output
    assert said("chat", str(whole_run.folder), "--model", "base", given="").exit_code == 0  # Ctrl-D


def test_serve_prints_the_command_of_each_server(whole_run: WholeRun, tmp_path: Path) -> None:
    model = str((whole_run.folder / "model").resolve())
    plain = shlex.split(said("serve", str(whole_run.folder), "--print", "--server", "vllm").stdout)
    assert plain[:3] == ["vllm", "serve", model]
    run = changed_run(whole_run, tmp_path, model={"template_args": {"enable_thinking": False}})
    asked = ("serve", str(run), "--print", "--port", "8123", "--server")
    command = shlex.split(said(*asked, "transformers").stdout)
    assert command[:2] == ["transformers", "serve"]
    assert command[command.index("--chat-template-kwargs") + 1] == '{"enable_thinking": false}'
    assert command[command.index("--host") + 1 :] == ["127.0.0.1", "--port", "8123"]


def test_an_adapter_alone_is_served_by_vllm_on_its_base(whole_run: WholeRun, tmp_path: Path) -> None:
    run = changed_run(whole_run, tmp_path)
    publish_adapter_alone(whole_run, run)
    command = shlex.split(said("serve", str(run), "--print", "--server", "vllm").stdout)
    assert command[2] == yaml.safe_load((run / "config.yaml").read_text())["model"]["name"]
    assert command[command.index("--lora-modules") + 1] == f"{run.name}={(run / 'model').resolve()}"
    assert command[command.index("--max-lora-rank") + 1] == "8"  # vLLM allows no 4
    assert "training.save=merged" in refusal("serve", str(run), "--print", "--server", "transformers")


def test_bad_input_is_refused_with_the_next_step(whole_run: WholeRun, tmp_path: Path) -> None:
    run = str(whole_run.folder)
    assert "neuron-opsd run" in refusal("ask", str(tmp_path / "nothing"), "a?")
    assert "The question is empty" in refusal("ask", run)
    assert "The question is empty" in refusal("ask", run, "  ")
    assert "Give 2 to 26" in refusal("ask", run, "a?", "--choices", "b")
    assert "The question has 1 choice(s)" in refusal("ask", run, "a?", "--choices", "b", "--choices", "b")
    assert "base, trained, both" in refusal("ask", run, "a?", "--model", "best")
    assert "vllm, transformers" in refusal("serve", run, "--print", "--server", "apache")
    assert "does not read QUESTION, --json" in refusal("ask", run, "a?", "--web", "--json")
    assert "does not read --thinking" in refusal("chat", run, "--web", "--thinking")
    assert "without --web there is no page" in refusal("chat", run, "--port", "9000")


def test_a_run_without_a_trained_model_says_how_to_get_one(whole_run: WholeRun, tmp_path: Path) -> None:
    run = changed_run(whole_run, tmp_path / "unfinished")
    (run / "training" / "manifest.json").unlink()
    for command in (("ask", str(run), "a?"), ("chat", str(run))):
        message = refusal(*command)
        assert "training is not finished" in message
        assert "--model base" in message
    assert "neuron-opsd run" in refusal("serve", str(run))
    assert said("ask", str(run), "a?", "--model", "base").exit_code == 0
    untrained = changed_run(whole_run, tmp_path / "base", training={"objective": "none"})
    assert "trains no model" in refusal("ask", str(untrained), "a?")


def test_a_damaged_model_is_named(whole_run: WholeRun, tmp_path: Path) -> None:
    run = changed_run(whole_run, tmp_path)
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    for command in (("ask", str(run), "a?"), ("chat", str(run)), ("serve", str(run), "--print")):
        assert "model.safetensors is corrupted" in refusal(*command)


@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="needs the extra web")
def test_a_port_in_use_is_refused(whole_run: WholeRun, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for command in ("ask", "chat"):
            assert f"--port is {port}, which is in use" in refusal(
                command, str(whole_run.folder), "--web", "--port", port
            )


def test_a_table_without_readable_answers(speakers: Speakers) -> None:
    found = [
        answers_of(
            speakers, "base", Question(question_id="q", domain="d", question="?"), settings_for(speakers, 1)
        )
    ]
    rows = dict(describe_answers(Question(question_id="q", domain="d", question="?"), found))
    assert rows["vote share"] == ["1 of 1 (100%)"]


def test_no_trained_model_is_a_run_folder_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        RunFolder(tmp_path).require_model()


def test_transformers_server_takes_these_options() -> None:
    from transformers.cli.serve import Serve

    known = set(inspect.signature(Serve.__init__).parameters)
    assert {"force_model", "host", "port", "chat_template_kwargs", "trust_remote_code"} <= known


PARSE = """
import sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
"""


class TestVLLM:
    pytestmark = NEEDS_VLLM

    def test_vllm_server_takes_these_options(self, whole_run: WholeRun, tmp_path: Path) -> None:
        arguments = {"enable_thinking": False}
        run = changed_run(whole_run, tmp_path, model={"template_args": arguments, "trust_remote_code": True})
        for _ in range(2):
            command = server_command(RunFolder.open(run), server="vllm")
            parsed = [PYTHON, "-c", PARSE, *command[2:]]
            done = subprocess.run(parsed, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            publish_adapter_alone(whole_run, run)
