"""Where the shards of a stage are made: in this process, in several of this machine, or on a Ray cluster."""

from neuron_opsd.run.runners.base import InProcessRunner, OnProgress, Runner, ShardWork
from neuron_opsd.run.runners.processes import ProcessRunner
from neuron_opsd.run.runners.ray_cluster import RayRunner

__all__ = [
    "InProcessRunner",
    "OnProgress",
    "ProcessRunner",
    "RayRunner",
    "Runner",
    "ShardWork",
    "make_runner",
]

RUNNERS = ("local", "ray")


def make_runner(name: str, num_processes: int) -> Runner:
    """The runner of `--runner` and `--num-processes`."""
    if name == "ray":
        return RayRunner(num_processes)
    return ProcessRunner(num_processes) if num_processes > 1 else InProcessRunner()
