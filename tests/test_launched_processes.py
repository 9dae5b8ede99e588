"""What launchers say of the processes, by the environment."""

import pytest

from neuron_opsd.errors import ConfigError
from neuron_opsd.processes import num_processes


@pytest.mark.parametrize("value", ["abc", "", "-1", "1.5", "2 ", "\u0662", "9" * 5000, "0x2"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        num_processes()


def test_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert num_processes() == 2
