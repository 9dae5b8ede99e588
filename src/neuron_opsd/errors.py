"""Every error that neuron-opsd raises on purpose.

    NeuronOpsdError          exit status 2: something the user can mend
    +-- ConfigError          a setting: unknown, misspelt, of the wrong type, out of range
    +-- DataError            a record, a file of questions or answers: names file and line
    +-- ModelError           a model that cannot be loaded or that this method cannot read
    |   +-- NotFiniteError   its logits or its loss are NaN or infinite
    +-- RunFolderError       a run folder: missing, busy, damaged, or not writable
    +-- TrainingError        training that ended with no model to keep
    +-- EngineError          an inference engine that fails or does not answer
    +-- HubError             the hub cannot be reached, or does not take the model
    +-- WorkerError          a process that made shards and died
    +-- UnlikelyToHelpError  exit status 3: no error, but a stop that the user asked for with --stop-if-unlikely

A message names the thing, the value, what is allowed, and the next step. The command line prints it without a
traceback. Any other exception is a bug of ours and keeps its traceback.
"""

from neuron_opsd.redaction import redact


class NeuronOpsdError(Exception):
    """Base of every expected error. The message alone is shown to the user, without secrets."""

    exit_status = 2

    def __init__(self, message: object = "") -> None:
        super().__init__(redact(message))


class ConfigError(NeuronOpsdError):
    """A setting is unknown, misspelt, of the wrong type or out of range."""


class DataError(NeuronOpsdError):
    """A file of questions or answers cannot be used as it is."""


class ModelError(NeuronOpsdError):
    """A model or tokenizer cannot be loaded, or lacks what the method needs."""


class NotFiniteError(ModelError):
    """A model gives values that are NaN or infinite."""


class RunFolderError(NeuronOpsdError):
    """A run folder is missing, in use by another process, damaged or not writable."""


class TrainingError(NeuronOpsdError):
    """Training ended early, with no model to keep."""


class EngineError(NeuronOpsdError):
    """An inference engine failed, or does not offer what was asked of it."""


class HubError(NeuronOpsdError):
    """The hub cannot be reached, or does not take the model."""


class WorkerError(NeuronOpsdError):
    """A process that made shards died before it had written its shard."""


class UnlikelyToHelpError(NeuronOpsdError):
    """The preflight says "unlikely to help", and the user asked to stop then."""

    exit_status = 3
