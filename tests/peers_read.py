"""verl's and ms-swift's own loaders read two exports: peers_read.py PEERS FOLDER < the student's messages as JSON."""

import json
import sys
from pathlib import Path

from helpers import build_tiny_tokenizer


def main(peers: str, folder: Path, student: list[dict[str, str]]) -> None:
    sys.path.append(peers)  # last: what both have is ours
    verl_reads(folder, student)
    print("verl")  # noqa: T201
    swift_reads(folder, student)
    print("ms-swift")  # noqa: T201


def verl_reads(folder: Path, student: list[dict[str, str]]) -> None:
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    settings = OmegaConf.create(
        {"cache_dir": str(folder / "cache"), "max_prompt_length": 4096, "filter_overlong_prompts": False}
    )
    row = RLHFDataset([str(folder / "verl.parquet")], build_tiny_tokenizer(), settings)[0]
    assert list(row["raw_prompt"]) == student
    assert row["data_source"] == "neuron_opsd/sums"


def swift_reads(folder: Path, student: list[dict[str, str]]) -> None:
    """The teacher's prompt replaces the last user turn."""
    from swift.rl_core.data import OnPolicySample

    row = json.loads((folder / "swift.jsonl").read_text().splitlines()[0])
    sample = OnPolicySample(messages=row["messages"], teacher_prompt=row["teacher_prompt"])
    assert sample.build_teacher_view()
    assert sample.teacher_messages == [*student[:-1], {"role": "user", "content": row["teacher_prompt"]}]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.load(sys.stdin))
