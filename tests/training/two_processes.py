"""Run by torchrun in `test_two_processes.py`: the runs of that test, one after the other, shared by the processes.

Accelerate shards on accelerators only, so for FSDP2 the processors are declared to be some; all after that is its own.
"""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from training_runs import RUNS, weights

from neuron_opsd import processes

torch.set_num_threads(1)

plain_init = PartialState.__init__


def declared_accelerators(self, *args, **kwargs) -> None:
    is_first = not PartialState._shared_state
    plain_init(self, *args, **kwargs)
    if is_first:  # Accelerate makes FSDP of it, which stays
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    if processes.is_sharded():
        PartialState.__init__ = declared_accelerators
    for name in sys.argv[2:]:
        student = RUNS[name](Path(sys.argv[1]) / name)
        if processes.is_main():
            save_file(weights(student), Path(sys.argv[1]) / f"{name}.safetensors")
    processes.leave()
