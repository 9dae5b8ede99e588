"""The likeliest letters with and without positions, against plain torch; and which questions have them."""

from itertools import permutations

import pytest
import torch

from neuron_opsd.config import PromptSettings
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.preflight import position_free
from neuron_opsd.preflight.position_free import LetterPrompts, Shown, likeliest_letters, reads_letters
from neuron_opsd.records import Question

LETTERS = PromptSettings(answer_format="letter")


def question(*choices: str) -> Question:
    return Question(question_id="q", domain="d", question="?", choices=choices)


def by_hand(model, shown: list[Shown], letters: list[int]) -> str:
    """The choice of largest mean probability, one prompt at a time."""
    means = dict.fromkeys("ABC", 0.0)
    for one in shown:
        probs = model(torch.tensor([one.prompt_ids])).logits[0, -1, letters].double().softmax(-1)
        for place, original in enumerate(one.choice_order):
            means["ABC"[original]] += probs[place].item() / len(shown)
    return max(means, key=means.__getitem__)


@torch.inference_mode()
def test_the_mean_over_orders_is_mapped_back_before_it_is_compared(tiny_model, tiny_tokenizer) -> None:
    encoder = ChatEncoder(tiny_tokenizer)
    letters = [encoder.encode_text(letter)[0] for letter in "ABC"]
    state = torch.Generator().manual_seed(0)
    prompts = [
        Shown(tuple(torch.randint(3, 259, (5,), generator=state).tolist()), order)
        for _ in range(12)
        for order in permutations(range(3))
    ]
    asked = [
        LetterPrompts(averaged=prompts[i : i + 3], student=[prompts[i]], teacher=prompts[i + 1 : i + 3])
        for i in range(0, len(prompts), 3)
    ]
    found = likeliest_letters(tiny_model, asked, encoder, batch_size=5)
    for own, answer in zip(asked, found, strict=True):
        assert answer.averaged == by_hand(tiny_model, list(own.averaged), letters)
        assert answer.student == by_hand(tiny_model, list(own.student), letters)
        assert answer.teacher == by_hand(tiny_model, list(own.teacher), letters)
    assert any(answer.averaged != answer.student for answer in found)
    assert any(answer.averaged == answer.student for answer in found)


@torch.inference_mode()
def test_prompts_that_were_read_to_be_answered_are_not_read_again(
    tiny_model, tiny_tokenizer, monkeypatch
) -> None:
    encoder = ChatEncoder(tiny_tokenizer)
    shown = [Shown(tuple(range(5 + i, 12 + 2 * i)), order) for i, order in enumerate(permutations(range(3)))]
    asked = [LetterPrompts(averaged=shown[:3], student=shown[3:4], teacher=shown[4:])]
    expected = likeliest_letters(tiny_model, asked, encoder, batch_size=4)
    known = {}
    engine = HFEngine(
        tiny_model,
        tiny_tokenizer,
        on_read=lambda model, read: known.update(zip(read.prompts, read.last_states, strict=True)),
    )
    requests = [Request(prompt_ids=one.prompt_ids, seeds=(0,)) for one in shown[:4]]
    list(engine.generate(requests, Sampling(temperature=1.0, max_new_tokens=2)))
    read = []
    plain = position_free.read_first_tokens

    def noted(model, prompts, **options):
        read.extend(prompts)
        return plain(model, prompts, **options)

    monkeypatch.setattr(position_free, "read_first_tokens", noted)
    assert likeliest_letters(tiny_model, asked, encoder, batch_size=4, known=known) == expected
    assert read == [one.prompt_ids for one in shown[4:]]
    # A state that is another's gives that one's letters.
    swapped = {shown[3].prompt_ids: known[shown[0].prompt_ids]}
    other = likeliest_letters(
        tiny_model, [LetterPrompts([], [shown[3]], [Shown(shown[0].prompt_ids, shown[3].choice_order)])], encoder,
        batch_size=4, known=swapped,
    )[0]  # fmt: skip
    assert other.student == other.teacher


@pytest.mark.parametrize(
    ("asked", "prompts", "is_read"),
    [
        (question("red", "blue"), LETTERS, True),
        (question("red", "blue", "all of the above"), LETTERS, False),  # no choice can move
        (question(), LETTERS, False),
        (question("red", "blue"), PromptSettings(answer_format="reasoned"), False),
        (question("red", "blue"), PromptSettings(answer_format="letter", answer_pattern="([AB])"), False),
    ],
)
def test_only_answers_of_one_letter_are_read(tiny_tokenizer, asked, prompts, is_read: bool) -> None:
    assert reads_letters(asked, ChatEncoder(tiny_tokenizer), prompts) == is_read
