"""The transformers engine: greedy, sampled and scored as the model itself says."""

import gc
from collections import Counter

import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from helpers import build_tiny_model
from neuron_opsd.engines.base import Completion, Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.engines.read_prompts import pad_left
from neuron_opsd.engines.sampling import sample_tokens
from neuron_opsd.engines.slot_cache import SlotCache
from neuron_opsd.errors import EngineError
from neuron_opsd.progress import listening

LENGTHS = (3, 11, 1, 7, 29, 5, 13)
GREEDY = Sampling(temperature=0, max_new_tokens=12)
SAMPLED = Sampling(temperature=1.0, max_new_tokens=24)


def make_prompts(seed: int = 0) -> list[tuple[int, ...]]:
    state = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(3, 259, (n,), generator=state).tolist()) for n in LENGTHS]


def requests(num_completions: int = 1) -> list[Request]:
    return [
        Request(prompt_ids=prompt, seeds=tuple(100 * i + j for j in range(num_completions)))
        for i, prompt in enumerate(make_prompts())
    ]


def run(engine: HFEngine, asked: list[Request], sampling: Sampling) -> list[list[Completion]]:
    done = dict(engine.generate(asked, sampling))
    return [done[i] for i in range(len(asked))]


def close(first: list[list[Completion]], second: list[list[Completion]]) -> None:
    assert [[c.token_ids for c in group] for group in first] == [
        [c.token_ids for c in group] for group in second
    ]
    assert [[c.finish_reason for c in g] for g in first] == [[c.finish_reason for c in g] for g in second]
    for group, other in zip(first, second, strict=True):
        for a, b in zip(group, other, strict=True):
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_batch_size_changes_nothing(tiny_model, tiny_tokenizer, sampling, batch_size):
    asked = requests(num_completions=3)
    whole = run(HFEngine(tiny_model, tiny_tokenizer, batch_size=64), asked, sampling)
    close(run(HFEngine(tiny_model, tiny_tokenizer, batch_size=batch_size), asked, sampling), whole)


def test_every_token_is_told_as_it_comes(tiny_model, tiny_tokenizer):
    told: list[tuple[int, str]] = []
    with listening(lambda *what: told.append(what)):
        done = run(HFEngine(tiny_model, tiny_tokenizer, batch_size=3), requests(2), SAMPLED)
    written = sum(len(completion.token_ids) for group in done for completion in group)
    assert sum(tokens for tokens, _ in told) == written
    assert max(tokens for tokens, _ in told) <= 3
    assert told[0] == (0, "reading 1 prompts of up to 29 tokens")


def test_order_and_company_change_nothing(tiny_model, tiny_tokenizer):
    engine, asked = HFEngine(tiny_model, tiny_tokenizer), requests(num_completions=2)
    whole = run(engine, asked, SAMPLED)
    close(run(engine, asked[::-1], SAMPLED), whole[::-1])
    for i, request in enumerate(asked):
        alone = [Request(prompt_ids=request.prompt_ids, seeds=(seed,)) for seed in request.seeds]
        close([[c[0] for c in run(engine, alone, SAMPLED)]], [whole[i]])


def test_same_call_twice_is_the_same(tiny_model, tiny_tokenizer):
    engine, asked = HFEngine(tiny_model, tiny_tokenizer), requests(num_completions=2)
    torch.manual_seed(1)
    first = run(engine, asked, SAMPLED)
    torch.manual_seed(2)
    assert run(engine, asked, SAMPLED) == first


def test_a_lower_limit_gives_a_prefix(tiny_model, tiny_tokenizer):
    engine, asked = HFEngine(tiny_model, tiny_tokenizer), requests()
    short = run(engine, asked, Sampling(temperature=1.0, max_new_tokens=5))
    for (a,), (b,) in zip(short, run(engine, asked, SAMPLED), strict=True):
        assert b.token_ids[:5] == a.token_ids


def test_greedy_is_what_generate_gives(tiny_model, tiny_tokenizer):
    """Prompts of unequal length, several samples each, and places that change hands."""
    asked = requests(num_completions=3)
    found = run(HFEngine(tiny_model, tiny_tokenizer, batch_size=7), asked, GREEDY)
    for request, group in zip(asked, found, strict=True):
        ids = torch.tensor([request.prompt_ids])
        expected = tiny_model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=2,
            pad_token_id=0,
        )
        assert [c.token_ids for c in group] == [tuple(expected[0, ids.shape[1] :].tolist())] * 3


@pytest.mark.parametrize(
    "sampling", [GREEDY, SAMPLED, Sampling(temperature=0.6, top_p=0.9, max_new_tokens=9)]
)
def test_log_probs_are_those_of_one_teacher_forced_pass(tiny_model, tiny_tokenizer, sampling):
    asked = requests(num_completions=2)
    for request, group in zip(asked, run(HFEngine(tiny_model, tiny_tokenizer), asked, sampling), strict=True):
        for completion in group:
            ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
            with torch.no_grad():
                log_probs = torch.log_softmax(
                    tiny_model(ids).logits[0, len(request.prompt_ids) - 1 : -1], dim=-1
                )
            expected = log_probs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            assert completion.log_probs == pytest.approx(expected.tolist(), abs=1e-4)


def test_finish_reasons(tiny_model, tiny_tokenizer):
    engine = HFEngine(tiny_model, tiny_tokenizer)
    asked = [Request(prompt_ids=make_prompts()[0], seeds=tuple(range(60)))]
    (group,) = run(engine, asked, Sampling(temperature=2.0, max_new_tokens=60))
    assert {c.finish_reason for c in group} == {"stop", "length"}
    for completion in group:
        ends = [token in engine.end_ids.tolist() for token in completion.token_ids]
        assert not any(ends[:-1])
        assert ends[-1] == (completion.finish_reason == "stop")
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 60
        assert len(completion.log_probs) == len(completion.token_ids)


def test_generation_config_is_not_read(tiny_tokenizer):
    model = build_tiny_model()
    expected = run(HFEngine(model, tiny_tokenizer), requests(), SAMPLED)
    model.generation_config.update(
        temperature=0.01, top_k=1, do_sample=True, repetition_penalty=5.0, max_length=3
    )
    assert run(HFEngine(model, tiny_tokenizer), requests(), SAMPLED) == expected


def test_every_end_token_of_the_model_ends(tiny_tokenizer):
    model = build_tiny_model()
    model.generation_config.eos_token_id = [2, 77]
    assert HFEngine(model, tiny_tokenizer).end_ids.tolist() == [2, 77]


def test_a_prompt_too_long_is_refused(tiny_model, tiny_tokenizer):
    asked = [Request(prompt_ids=(5,) * 250, seeds=(1,))]
    with pytest.raises(EngineError, match=r"250 tokens and 12 new ones .* 256"):
        run(HFEngine(tiny_model, tiny_tokenizer), asked, GREEDY)
    run(HFEngine(tiny_model, tiny_tokenizer), asked, Sampling(temperature=0, max_new_tokens=6))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.3, 0.8)])
def test_frequencies_follow_softmax(temperature, top_p):
    """Chi-square on 20,000 draws; the seed is fixed, so this passes or fails for good."""
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.3, -1.0, -2.0, 1.5])
    num_draws = 20_000
    uniforms = torch.rand(num_draws, generator=torch.Generator().manual_seed(3))
    sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=1)
    chosen, log_probs = sample_tokens(logits.expand(num_draws, -1), uniforms, sampling)
    probs = torch.softmax(logits.double() / temperature, -1)
    if top_p < 1:
        ordered, indices = probs.sort(descending=True)
        probs[indices[(ordered.cumsum(0) - ordered) >= top_p]] = 0
    observed = torch.bincount(chosen, minlength=8).double()
    assert observed[probs == 0].sum() == 0
    inside = probs > 0
    expected = probs[inside] / probs[inside].sum() * num_draws
    assert chisquare(observed[inside].numpy(), expected.numpy()).pvalue > 0.01
    torch.testing.assert_close(log_probs, torch.log_softmax(logits, -1)[chosen])


def test_engine_draws_follow_the_models_own_softmax(tiny_model, tiny_tokenizer):
    prompt = make_prompts()[1]
    asked = [Request(prompt_ids=prompt, seeds=tuple(range(4000)))]
    (group,) = run(
        HFEngine(tiny_model, tiny_tokenizer, batch_size=4000),
        asked,
        Sampling(temperature=1.0, max_new_tokens=1),
    )
    with torch.no_grad():
        probs = torch.softmax(tiny_model(torch.tensor([prompt])).logits[0, -1].double(), -1)
    observed = torch.bincount(torch.tensor([c.token_ids[0] for c in group]), minlength=260).double()
    large = probs * len(group) >= 5
    assert large.sum() > 5
    observed = torch.cat([observed[large], observed[~large].sum()[None]])
    expected = torch.cat([probs[large], probs[~large].sum()[None]]) * len(group)
    assert chisquare(observed.numpy(), expected.numpy()).pvalue > 0.01


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=t, top_p=p, max_new_tokens=2) for t, p in [(1.0, 1.0), (0.7, 0.9)]]
)
def test_two_tokens_are_distributed_as_those_of_generate(tiny_model, tiny_tokenizer, sampling):
    """Chi-square of two samples, on each token and on the pair; seeds are fixed, so it holds for good or never."""
    num_samples = 8000
    prompts = [prompt for prompt in make_prompts() if len(prompt) in (3, 11)]
    asked = [Request(prompt_ids=prompt, seeds=tuple(range(num_samples))) for prompt in prompts]
    engine = HFEngine(tiny_model, tiny_tokenizer, batch_size=num_samples)
    for prompt, group in zip(prompts, run(engine, asked, sampling), strict=True):
        ours = [completion.token_ids for completion in group]
        theirs = pairs_of_generate(tiny_model, prompt, sampling, num_samples)
        for view in (slice(0, 1), slice(1, 2), slice(0, 2)):
            assert (
                homogeneity([pair[view] for pair in ours], [pair[view] for pair in theirs]) > 0.001
            )  # of 12 such tests


def homogeneity(*samples: list[tuple[int, ...]]) -> float:
    """The chi-square test's p-value that samples are of one distribution; what is rare is one cell."""
    counts = [Counter(sample) for sample in samples]
    common = [value for value, count in sum(counts, Counter()).items() if count >= 10]
    table = [
        [*(count[value] for value in common), count.total() - sum(count[v] for v in common)]
        for count in counts
    ]
    table = [row for row in zip(*table, strict=True) if sum(row)]
    return float(chi2_contingency(table).pvalue)


def pairs_of_generate(
    model, prompt: tuple[int, ...], sampling: Sampling, num_samples: int
) -> list[tuple[int, ...]]:
    torch.manual_seed(5)
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=2,
            num_return_sequences=num_samples,
            eos_token_id=2,
            pad_token_id=0,
        )
    rows = output[:, len(prompt) :].tolist()
    return [tuple(row[:1] if row[0] == 2 else row) for row in rows]


def test_nucleus_by_hand():
    """Masses 0.5, 0.3, 0.2: up to 0.5 keeps one token, up to 0.8 two, above that all."""
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    for top_p, allowed in [
        (0.01, {1}),
        (0.49, {1}),
        (0.6, {1, 2}),
        (0.79, {1, 2}),
        (0.9, {0, 1, 2}),
        (1.0, {0, 1, 2}),
    ]:
        uniforms = torch.linspace(0, 0.999, 500)
        chosen, _ = sample_tokens(
            logits.expand(500, -1), uniforms, Sampling(temperature=1.0, top_p=top_p, max_new_tokens=1)
        )
        assert set(chosen.tolist()) == allowed, top_p


def test_top_k_by_hand():
    """Masses .1, .4, .2, .3: the k likeliest, in the ratio of their masses; top-p counts the mass that is left."""
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    uniforms = torch.linspace(0, 0.9999, 7000)
    for options, expected in [
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 2, "top_p": 0.5}, [0, 1, 0, 0]),  # 4/7 reaches .5; of the whole, .4 would not
    ]:
        sampling = Sampling(temperature=1.0, max_new_tokens=1, **options)
        chosen, log_probs = sample_tokens(logits.expand(7000, -1), uniforms, sampling)
        shares = torch.bincount(chosen, minlength=4) / 7000
        torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float32), atol=2e-3, rtol=0)
        torch.testing.assert_close(
            log_probs, logits[0, chosen]
        )  # at temperature 1, of the whole distribution


def test_of_equal_tokens_top_k_keeps_the_first():
    sampling = Sampling(temperature=1.0, top_k=2, max_new_tokens=1)
    chosen, _ = sample_tokens(torch.zeros(100, 5), torch.linspace(0, 0.999, 100), sampling)
    assert set(chosen.tolist()) == {0, 1}


def test_the_ends_of_the_unit_interval_choose_possible_tokens():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    for u in (0.0, 1 - 2**-24):
        chosen, _ = sample_tokens(logits, torch.tensor([u]), Sampling(temperature=1.0, max_new_tokens=1))
        assert chosen.item() in {1, 2}


def test_pad_left_by_hand():
    ids, mask = pad_left([[5, 6, 7], [8]], pad_id=9)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_what_stands_in_the_padding_does_not_matter(tiny_model, tiny_tokenizer, monkeypatch):
    engine = HFEngine(tiny_model, tiny_tokenizer)
    expected = run(engine, requests(), GREEDY)
    monkeypatch.setattr(
        "neuron_opsd.engines.read_prompts.pad_left",
        lambda sequences, device: pad_left(sequences, device=device, pad_id=123),
    )
    assert run(engine, requests(), GREEDY) == expected


def test_the_cache_is_given_back_at_once(tiny_model, tiny_tokenizer):
    """No cycle holds it: the loss that follows sampling needs the memory."""
    gc.collect()
    gc.disable()
    try:
        run(HFEngine(tiny_model, tiny_tokenizer), requests(2), SAMPLED)
        assert [found for found in gc.get_objects() if isinstance(found, SlotCache)] == []
    finally:
        gc.enable()


def test_the_head_reads_rows_that_lie_together(tiny_model, tiny_tokenizer):
    """Half precision on a CPU copies the unembedding, transposed, for each row of a strided view."""
    seen = []
    handle = tiny_model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    run(
        HFEngine(tiny_model, tiny_tokenizer),
        requests(num_completions=2),
        Sampling(temperature=1.0, max_new_tokens=2),
    )
    handle.remove()
    assert {hidden.shape[1] for hidden in seen} == {1}
    assert all(hidden.is_contiguous() for hidden in seen)
