"""Each rival moves its own quantity on a tiny model; with the signal broken it does not."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from helpers import build_tiny_model, build_tiny_tokenizer
from neuron_opsd.config import LoraSettings, PromptSettings, TrainingSettings, load_config
from neuron_opsd.errors import DataError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.trainable import trainable
from neuron_opsd.model.yes_no import first_tokens
from neuron_opsd.records import Question, Rollout
from neuron_opsd.run.session import Run
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.text.prompts import truth_messages
from neuron_opsd.training.figures import MetricsFile
from neuron_opsd.training.rivals.rewards import MajorityReward, SelfCertaintyReward, self_certainty
from neuron_opsd.training.rivals.train import make_reward, texts_to_learn
from neuron_opsd.training.rivals.trl_trainers import fine_tune, reinforce
from neuron_opsd.training.rivals.verified import verified_rollouts

TOKENIZER = build_tiny_tokenizer()
ENCODER = ChatEncoder(TOKENIZER)
WORDS = ("tea", "oak", "sun", "ink")
MESSAGES = [[{"role": "user", "content": word}] for word in WORDS]
PROMPTS = [ENCODER.encode(message) for message in MESSAGES]
STEPS = 12


def settings(**changes) -> TrainingSettings:
    given = {
        "objective": "majority_reward", "method": "full", "lora": LoraSettings(rank=8, alpha=32), "batch_size": 4,
        "num_rollouts": 8, "micro_batch_size": 32, "max_new_tokens": 1, "learning_rate": 0.01, "warmup_steps": 0,
    }  # fmt: skip
    return TrainingSettings(**{**given, **changes})


def letter(group: int, ids) -> str:
    """Four answers, by the first token."""
    return "ABCD"[ids[0] % 4]


def letter_shares(model) -> torch.Tensor:
    """P(letter | prompt), exactly; shape (prompts, 4)."""
    with torch.no_grad():
        logits = torch.stack([model(torch.tensor([ids])).logits[0, -1] for ids in PROMPTS])
    probabilities = torch.softmax(logits.float(), dim=-1)
    return torch.stack([probabilities[:, k::4].sum(dim=1) for k in range(4)], dim=1)


def run_grpo(folder: Path, make_reward, *, steps: int = STEPS, **changes):
    chosen = settings(**changes)
    student = trainable(build_tiny_model(), chosen, seed=0)
    rows: list[dict] = []
    reward = make_reward(student, rows, chosen)
    schedule = [step % 4 for step in range(steps * chosen.batch_size)]
    prompts = [
        {"prompt": MESSAGES[i], "prompt_ids": PROMPTS[i], "group": group} for group, i in enumerate(schedule)
    ]
    before = letter_shares(student), certainty(student)
    reinforce(
        student, TOKENIZER, prompts, reward, chosen, template_args={}, folder=folder, num_steps=steps, seed=0
    )
    student.eval()
    return before, (letter_shares(student), certainty(student)), rows, student


def certainty(model) -> float:
    """Of the first token, whatever it is."""
    return sum(self_certainty(model, PROMPTS, [[5]] * 4, chunk_tokens=8)) / 4


def majority(relabel=lambda votes: votes):
    return lambda student, rows, chosen: MajorityReward(
        letter, num_rollouts=chosen.num_rollouts, on_row=rows.append, relabel=relabel
    )


def test_ttrl_makes_the_model_agree_with_itself(tmp_path: Path) -> None:
    (before, _), (after, _), rows, _ = run_grpo(tmp_path, majority())
    assert after.max(dim=1).values.mean() > before.max(dim=1).values.mean() + 0.3
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[0]["num_completion_tokens"] == 32
    assert rows[-1]["vote_share"] > rows[0]["vote_share"] + 0.2
    assert json.loads(json.dumps(rows)) == rows


def test_completions_that_were_cut_teach_nothing_where_they_are_masked(tmp_path: Path) -> None:
    """All are cut at one token, so nothing is learned; without the mask it is."""
    (before, _), (after, _), _, _ = run_grpo(tmp_path / "masked", majority(), steps=2, truncated="mask")
    assert torch.equal(before, after)
    (before, _), (after, _), _, _ = run_grpo(tmp_path / "kept", majority(), steps=2)
    assert not torch.equal(before, after)


def test_tokens_of_masked_completions_carry_no_loss() -> None:
    rows: list[dict] = []
    reward = MajorityReward(lambda group, ids: "A", num_rollouts=2, on_row=rows.append, end_ids={2})
    step = type("State", (), {"global_step": 0})()
    reward([], [], [[5, 6, 2], [5, 6]], [0, 0], [[1], [1]], step)
    assert (rows[0]["num_completion_tokens"], rows[0]["num_loss_tokens"]) == (5, 3)


def test_completions_are_cut_by_trls_own_rule(tmp_path: Path) -> None:
    """A token that ends replies by the model's generation configuration alone ends them in our figures, too."""
    model = build_tiny_model()
    model.generation_config.eos_token_id = [7, 9]
    model.save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    values = {
        "model.name": str(tmp_path / "base"),
        "questions.path": "any",
        "training.truncated": "mask",
    }
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config(load_config("ttrl", values=values))
    reward = make_reward(Run(folder), model, [], MetricsFile(tmp_path / "metrics.jsonl", checkpoint=None))
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,  # pyright: ignore[reportArgumentType]
        args=GRPOConfig(output_dir=str(tmp_path / "trl"), report_to="none", bf16=False),
        train_dataset=Dataset.from_list([{"prompt": MESSAGES[0]}]),
        processing_class=TOKENIZER,
    )
    assert set(reward.end_ids or ()) == {*trainer.eos_token_ids, TOKENIZER.pad_token_id} >= {7, 9}


def test_ttrl_with_shuffled_votes_does_not(tmp_path: Path) -> None:
    state = random.Random(0)

    def shuffled(votes):
        return {group: replace(vote, answer=state.choice("ABCD")) for group, vote in votes.items()}

    (before, _), (after, _), _, _ = run_grpo(tmp_path, majority(shuffled))
    assert after.max(dim=1).values.mean() < before.max(dim=1).values.mean() + 0.2


def certain(kind=SelfCertaintyReward):
    return lambda student, rows, chosen: kind(
        letter, model=student, chunk_tokens=8, micro_batch_size=8, num_rollouts=chosen.num_rollouts,
        on_row=rows.append,
    )  # fmt: skip


class Noise(SelfCertaintyReward):
    """The signal broken: the same rewards, each given to another completion."""

    state = random.Random(0)

    def values(self, *args):
        return self.state.sample(found := super().values(*args), len(found))


CERTAIN = {"objective": "self_certainty", "max_new_tokens": 2, "learning_rate": 0.002}


def test_intuitor_makes_the_model_certain(tmp_path: Path) -> None:
    _, _, rows, _ = run_grpo(tmp_path, certain(), steps=20, **CERTAIN)
    first, last = (sum(row["reward"] for row in part) / 3 for part in (rows[:3], rows[-3:]))
    assert last > 1.5 * first > 0


def test_the_kl_holds_the_model_and_leaves_no_reference_adapter(tmp_path: Path) -> None:
    _, _, rows, student = run_grpo(tmp_path, certain(), **CERTAIN, method="lora", kl_weight=0.005)
    assert list(student.peft_config) == ["default"]
    assert len(rows) == STEPS


def test_intuitor_with_shuffled_rewards_does_not(tmp_path: Path) -> None:
    _, _, rows, _ = run_grpo(tmp_path, certain(Noise), steps=20, **CERTAIN)
    first, last = (sum(row["reward"] for row in part) / 3 for part in (rows[:3], rows[-3:]))
    assert last < 1.3 * first


def test_self_certainty_by_hand() -> None:
    model = build_tiny_model()
    completions = [[7, 30], [9]]
    found = self_certainty(model, PROMPTS[:2], completions, chunk_tokens=2)
    for prompt, completion, value in zip(PROMPTS, completions, found, strict=False):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].double()
        log_p = torch.log_softmax(logits, dim=-1)
        size = log_p.shape[-1]
        kl = (math.log(1 / size) - log_p).mul(1 / size).sum(dim=-1).mean()
        assert value == pytest.approx(float(kl), rel=1e-4)


def rollouts(model) -> list[Rollout]:
    """Eight sampled first tokens of each prompt."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for word, ids in zip(WORDS, PROMPTS, strict=True):
        with torch.no_grad():
            shares = torch.softmax(model(torch.tensor([ids])).logits[0, -1].float(), dim=-1)
        for r, token in enumerate(
            torch.multinomial(shares, 8, replacement=True, generator=generator).tolist()
        ):
            made.append(
                Rollout(
                    question_id=word,
                    rollout_index=r,
                    choice_order=(),
                    prompt_ids=tuple(ids),
                    completion_ids=(token,),
                    token_log_probs=(0.0,),
                    finish_reason="stop",
                    reply="",
                    answer=letter(0, [token]),
                )
            )
    return made


def lmsi(folder: Path, texts) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = settings(objective="majority_sft", batch_size=8, micro_batch_size=8, num_rollouts=1)
    student = trainable(build_tiny_model(), chosen, seed=0)
    before = letter_shares(student)
    fine_tune(student, TOKENIZER, texts, chosen, folder=folder, num_steps=STEPS, seed=0)
    return before, letter_shares(student.eval())


def test_lmsi_learns_the_majority_and_nothing_else_of_shuffled_texts(tmp_path: Path) -> None:
    own = rollouts(build_tiny_model())
    texts = texts_to_learn(own, settings())
    assert 4 <= len(texts) < len(own)
    voted = {tuple(prompt): "ABCD".index(letter(0, completion)) for prompt, completion in texts}
    places = [voted[tuple(ids)] for ids in PROMPTS]
    before, after = lmsi(tmp_path / "a", texts)
    gain = (after - before)[range(4), places].mean()
    assert gain > 0.3

    state = random.Random(1)
    everything = [(prompt, completion) for prompt, _ in texts for _, completion in [state.choice(texts)]]
    before, after = lmsi(tmp_path / "b", everything)
    assert (after - before)[range(4), places].mean() < gain - 0.2


def test_the_upper_bound_learns_what_gives_the_gold_answer_and_nothing_of_other_questions() -> None:
    own = rollouts(build_tiny_model())
    gold = {"tea": own[0].answer, "oak": "D"}
    texts = texts_to_learn(own, settings(), gold=gold)
    assert texts == [(r.prompt_ids, r.completion_ids) for r in own if gold.get(r.question_id) == r.answer]
    assert 1 <= len(texts) < len(own)
    with pytest.raises(DataError, match="gold answer"):
        texts_to_learn(own, settings(), gold={"sun": "E"})


def test_lmsi_leaves_out_what_was_cut_and_refuses_to_learn_from_nothing() -> None:
    cut = [replace(rollout, finish_reason="length") for rollout in rollouts(build_tiny_model())]
    assert texts_to_learn(cut, settings())
    with pytest.raises(DataError, match="nothing to learn from"):
        texts_to_learn(cut, settings(truncated="mask"))


def test_self_verified_learns_what_the_model_calls_right_itself() -> None:
    model, own = build_tiny_model(), rollouts(build_tiny_model())
    own = [*own[:-1], replace(own[-1], answer=None)]
    questions = {
        word: Question(question_id=word, domain="d", question=word, choices=("red", "blue", "green", "black"))
        for word in WORDS
    }

    def truth(rollout: Rollout) -> float:
        ids = ENCODER.encode(truth_messages(questions[rollout.question_id], rollout.answer or "", "letter"))
        with torch.no_grad():
            probs = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
        yes, no = (first_tokens(word, ENCODER) for word in ("yes", "no"))
        return float(probs[sorted({*yes} - {*no})].sum() / probs[sorted({*yes} ^ {*no})].sum())

    known = [truth(rollout) for rollout in own[:-1]]
    limit = sorted(known)[len(known) // 2]
    how = {"prompts": PromptSettings(answer_format="letter"), "batch_size": 3}
    found = verified_rollouts(own, questions, model, ENCODER, min_truth=limit - 1e-4, **how)
    assert found == [r for r, value in zip(own, known, strict=False) if value >= limit - 1e-4]
    assert 0 < len(found) < len(own) - 1
    chosen = settings(objective="verified_sft")
    assert texts_to_learn(own, chosen, verified=found) == [(r.prompt_ids, r.completion_ids) for r in found]
    with pytest.raises(DataError, match=r"0 have an answer of P\(True\) 0.5 or more"):
        texts_to_learn(own, chosen, verified=[])


def test_ssd_learns_every_rollout_as_it_was_sampled() -> None:
    own = rollouts(build_tiny_model())
    own = [replace(own[0], finish_reason="length"), replace(own[1], answer=None), *own[2:]]
    texts = texts_to_learn(own, settings(objective="sample_sft"))
    assert texts == [(rollout.prompt_ids, rollout.completion_ids) for rollout in own]
    assert texts_to_learn(own, settings(objective="sample_sft", truncated="mask")) == texts[1:]
    empty = [replace(rollout, completion_ids=()) for rollout in own]
    with pytest.raises(DataError, match="nothing to learn from"):
        texts_to_learn(empty, settings(objective="sample_sft"))
