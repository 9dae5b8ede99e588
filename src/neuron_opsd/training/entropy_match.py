"""The one temperature at which a model is as sure as the base model is. No label takes part.

    mean over tokens of H(logits / (tau T))  =  mean over tokens of H(base model's / T)

T is the temperature of the rollouts. At 1, half the entropy of a small model's letter is that of words which are no
answer. A model that has learnt the form alone would be taken for one that has become sure.

`training.teacher_entropy: matched` divides the teacher's logits. The tokens are those of the student's own samples
before any training. What the teacher prefers is learnt then, and not how much surer its context makes it. (2604.16830
holds that sureness for the cause of overconfidence.)

`training.student_entropy: matched` divides the trained student's logits, when it is published. A student that cannot
foresee where its teacher will differ learns to be less sure everywhere: it is the first thing that lowers the
divergence. The temperature takes that back, and leaves what the student has learnt to prefer.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from neuron_opsd import processes
from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.base_kl import CHUNK_TOKENS, States
from neuron_opsd.model.divergence import entropy
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.order_average import ViewStates
from neuron_opsd.model.unembedding import logits_from_hidden
from neuron_opsd.progress import tell
from neuron_opsd.store.files import dump_json, read_json, write_text

if TYPE_CHECKING:
    from neuron_opsd.training.opsd_trainer import OpsdTrainer

logger = logging.getLogger(__name__)

FILE = "teacher_temperature.json"
NUM_ITEMS = 64  # completions measured, the first of the schedule
NUM_TOKENS = 1024  # of them, at most
GRID = torch.logspace(-3, 3, 97, base=2.0)  # temperatures from 1/8 to 8


def kept_temperature(folder: Path, measure: Callable[[], float]) -> float:
    """The temperature that an earlier process of this training measured, or a new one. A resumed run keeps it."""
    path = folder / FILE
    if (kept := processes.from_main(read_json(path) if processes.is_main() else None)) is not None:
        return float(kept["teacher_temperature"])
    found = processes.from_main(measure())
    if processes.is_main():
        write_text(path, dump_json({"teacher_temperature": found}))
    return found


@torch.inference_mode()
def student_temperature(model: CausalLM, student: States, base: States, *, sampled_at: float) -> float:
    """What the student's logits are divided by, so that its samples have the base model's mean token entropy.

    Args:
        model: Has the head, which both share.
        student: For each text, the states that predict its tokens.
        base: The same of the base model, for the same texts.
        sampled_at: The temperature of the samples.
    """
    target, entropies, num_tokens = 0.0, torch.zeros(len(GRID), dtype=torch.float64), 0
    for one, other in zip(student, base, strict=True):
        for states, others in zip(one.split(CHUNK_TOKENS), other.split(CHUNK_TOKENS), strict=True):
            after, before = (
                logits_from_hidden(model, values.to(model.device)) / sampled_at for values in (states, others)
            )
            target += entropy(before.log_softmax(dim=-1)).sum().item()
            entropies += entropies_at(after, GRID).cpu()
            num_tokens += len(states)
    found = matching(target / num_tokens, entropies / num_tokens)
    logger.info(
        "training: the student's logits are divided by %.3f: at temperature %g its token entropy is %.3f nats as it "
        "was trained, and the base model's is %.3f (%d tokens)",
        found, sampled_at, entropies[len(GRID) // 2] / num_tokens, target / num_tokens, num_tokens,
    )  # fmt: skip
    return found


@torch.no_grad()
def measure_temperature(trainer: "OpsdTrainer", *, sampled_at: float) -> float:
    """The teacher's matching temperature, on the first completions that the untrained student samples."""
    model, chunk = trainer.reader, trainer.settings.loss_chunk_tokens
    model.eval()
    places = range(min(NUM_ITEMS, len(trainer.rollouts.items)))
    students, teachers, num_tokens = 0.0, torch.zeros(len(GRID), dtype=torch.float64), 0
    items = [trainer.rollouts.items[place] for place in places]
    sampled = trainer.one_token.begin(items) if trainer.one_token else trainer.rollouts.sample(items)
    for place, item in enumerate(sampled, start=1):
        tell(doing=f"measuring the teacher's temperature, {place} of {len(items)}")
        # As in a step, in whose precision the trainer keeps what it has read.
        with trainer.accelerator.autocast():
            states = trainer.teacher_states([item])
        assert states is not None
        model.eval()
        rows = states if isinstance(states, ViewStates) else (states,)
        with trainer.accelerator.autocast():
            own = predicting_states(
                model, model, *pad_right([item.student_ids], [item.completion_ids], device=model.device)
            )
            for start in range(0, len(own), chunk):
                part = slice(start, start + chunk)
                student = logits_from_hidden(model, own[part]) / sampled_at
                students += entropy(student.log_softmax(dim=-1)).sum().item()
                teacher = trainer.teacher.logits(*(row[part] for row in rows)) / sampled_at
                teachers += entropies_at(teacher, GRID).cpu()
        num_tokens += len(own)
        if num_tokens >= NUM_TOKENS:
            break
    found = matching(students / num_tokens, teachers / num_tokens)
    logger.info(
        "training: the teacher's logits are divided by %.3f: at temperature %g its token entropy is %.3f nats as it "
        "is, and the base student's is %.3f (%d tokens)",
        found, sampled_at, teachers[len(GRID) // 2] / num_tokens, students / num_tokens, num_tokens,
    )  # fmt: skip
    return found


def entropies_at(
    logits: Float[Tensor, "tokens vocab"], temperatures: Tensor
) -> Float[Tensor, " temperatures"]:
    """The entropy summed over tokens, in nats, at each temperature."""
    return torch.stack(
        [entropy((logits / t).log_softmax(dim=-1)).double().sum() for t in temperatures.tolist()]
    )


def matching(target: float, entropies: Float[Tensor, " temperatures"]) -> float:
    """The temperature of GRID, or between two of it, whose entropy is `target`. The nearest end where none is."""
    above = int(torch.searchsorted(entropies, torch.tensor(target, dtype=entropies.dtype)))
    if above in (0, len(GRID)):
        end = GRID[min(above, len(GRID) - 1)].item()
        logger.warning(
            "training: no temperature gives the token entropy of the base model. The nearest is %g", end
        )
        return end
    low, high = entropies[above - 1].item(), entropies[above].item()
    share = (target - low) / (high - low) if high > low else 0.0
    logs = GRID[above - 1 : above + 1].log2()
    return math.pow(2.0, (logs[0] + share * (logs[1] - logs[0])).item())
