"""The stages of a run: which reads the records of which, and which of them given settings make."""

from neuron_opsd.config import Config

TRAINED_FROM = ("questions", "rollouts", "neurons", "selection", "demonstrations", "contexts")
ROLES = ("base", "trained")
GOLD_LABELS = "gold_labels"  # made by evaluation, for the upper bound alone
# Each stage with those whose records it reads, in the order of a run. `stages_made` says which of them a run makes.
STAGES_BEFORE: dict[str, tuple[str, ...]] = {
    "questions": (),
    "rollouts": ("questions",),
    "neurons": ("questions", "rollouts"),
    "selection": ("questions", "rollouts", "neurons"),
    "demonstrations": (),
    "contexts": ("questions", "rollouts", "neurons", "selection", "demonstrations"),
    "preflight": TRAINED_FROM,
    GOLD_LABELS: ("questions",),
    "training": (*TRAINED_FROM, GOLD_LABELS),
    "evaluation/base": ("questions",),
    "evaluation/base_options": ("questions", "evaluation/base"),
    "evaluation/base_truth": ("questions", "evaluation/base"),
    "evaluation/general_base": ("questions",),
    "evaluation/general_base_options": ("questions", "evaluation/general_base"),
    "evaluation/general_base_truth": ("questions", "evaluation/general_base"),
    "evaluation/contexts": ("questions", "rollouts", "neurons", "demonstrations", "evaluation/base"),
    "evaluation/trained": (*TRAINED_FROM, "training", "evaluation/contexts"),
    "evaluation/trained_options": (*TRAINED_FROM, "training", "evaluation/trained"),
    "evaluation/trained_truth": (*TRAINED_FROM, "training", "evaluation/contexts", "evaluation/trained"),
    "evaluation/general_trained": (*TRAINED_FROM, "training"),
    "evaluation/general_trained_options": (*TRAINED_FROM, "training", "evaluation/general_trained"),
    "evaluation/general_trained_truth": (*TRAINED_FROM, "training", "evaluation/general_trained"),
    "evaluation/general_kl": (
        *TRAINED_FROM, "training", "evaluation/general_base", "evaluation/general_trained",
    ),
}  # fmt: skip
# Their inputs hold the trained weights, which appear while a run goes on.
OF_THE_TRAINED_MODEL = tuple(name for name, before in STAGES_BEFORE.items() if "training" in before)

# The commands in the order of a run, each with the folders of the stages it makes; the last is the one that it is for.
COMMANDS: dict[str, tuple[str, ...]] = {
    "questions": ("questions",),
    "rollouts": ("rollouts",),
    "neurons": ("neurons",),
    "select": ("selection",),
    "contexts": ("demonstrations", "contexts"),
    "preflight": ("preflight",),
    "train": (GOLD_LABELS, "training"),
    "evaluate": ("evaluation",),
    "report": ("report",),
}
STAGE_NAMES = tuple(folders[-1] for folders in COMMANDS.values())  # as logs, `status` and `--until` have them
_COMMAND_OF = {folder: command for command, folders in COMMANDS.items() for folder in folders}


def command_of(stage: str) -> str | None:
    """The command that makes a stage. None where there is no such stage."""
    return _COMMAND_OF.get(stage.split("/")[0])


def reaches(until: str, command: str) -> bool:
    """Whether a run that stops after one command's stage comes to another's."""
    order = list(COMMANDS)
    return order.index(command) <= order.index(until)


def stages_made(config: Config) -> frozenset[str]:
    """The folders of the stages before evaluation that a run of these settings makes, and what evaluation reads."""
    made = {"questions", *(name for name in STAGES_BEFORE if name.startswith("evaluation/"))} - {
        "evaluation/contexts"
    }
    made |= {"training"} if config.training.trains else set()
    if config.training.is_distillation:
        made |= {*TRAINED_FROM, "preflight"} - _unread(config)
    if config.training.fine_tunes:
        made |= {"rollouts"}
    if config.training.uses_gold:
        made |= {GOLD_LABELS}
    if config.evaluation.context:
        made |= {"rollouts", "demonstrations", "evaluation/contexts"}
        made |= {"neurons"} if reads_neurons(config) else set()
    if config.contexts.retrieval != "other_domain":
        made.discard("demonstrations")
    return frozenset(made)


def _unread(config: Config) -> set[str]:
    """The method's stages that nothing reads where a question demonstrates to itself."""
    if not config.contexts.is_own:
        return set()
    unread, is_group = {"preflight"}, config.contexts.retrieval == "own_group"
    if is_group:
        unread |= {"contexts"}
    if config.selection.fraction == 1:
        unread |= {"neurons", "selection", *(("rollouts",) if is_group else ())}
    return unread


def reads_neurons(config: Config) -> bool:
    """Whether neighbours are found by their neurons."""
    return config.contexts.retrieval in ("neuron_overlap", "medoids")


def commands_of(config: Config) -> tuple[str, ...]:
    """The commands whose stages a run of these settings needs, in order."""
    needed = {*stages_made(config), "evaluation", "report"}
    return tuple(command for command, folders in COMMANDS.items() if folders[-1] in needed)
