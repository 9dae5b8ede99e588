"""Run by torchrun in `test_votes_of_processes.py`: TTRL on a tiny model; each process writes its rewards."""

import json
import sys
from pathlib import Path

import torch
from test_rivals_train import run_grpo

from neuron_opsd import processes
from neuron_opsd.training.rivals.rewards import MajorityReward

torch.set_num_threads(1)


def answer(group: int, ids) -> str | None:
    """Few answers, so that votes are tied; some cannot be read."""
    return [None, "7", "8", "8.0"][ids[0] % 4]


class Told(MajorityReward):
    """The reward, which remembers."""

    given: list = []  # noqa: RUF012

    def values(self, own, votes, prompt_ids, completion_ids):
        rewards = super().values(own, votes, prompt_ids, completion_ids)
        self.given += [[*pair, reward] for pair, reward in zip(own, rewards, strict=True)]
        return rewards


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    *_, rows, _ = run_grpo(
        folder / "trl",
        lambda student, rows, chosen: Told(answer, num_rollouts=chosen.num_rollouts, on_row=rows.append),
        steps=4,
        batch_size=3,
        micro_batch_size=24 // processes.num_processes(),
        learning_rate=1e-6,  # the answers stay as varied as they are
    )
    rank = torch.distributed.get_rank()
    (folder / f"{rank}.json").write_text(json.dumps({"given": Told.given, "rows": rows}))
    processes.leave()
