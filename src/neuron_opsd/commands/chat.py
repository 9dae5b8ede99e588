"""A conversation with the base and the trained model of a run, side by side. Each keeps its own history."""

from collections.abc import Sequence

from neuron_opsd.commands.ask import Reply, make_reply
from neuron_opsd.commands.speakers import Speakers
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.errors import DataError
from neuron_opsd.random_state import derive_seed
from neuron_opsd.text.prompts import Message

MAX_NEW_TOKENS = 512  # of a reply, where the evaluation's limit is lower: a letter is no conversation
MIN_ROOM = 16  # tokens left for a reply

HELP = """/reset  forget the conversation
/quit   leave (so does Ctrl-D)
/help   this list
Anything else is said to the models."""


class Chat:
    """One conversation.

    Args:
        speakers: The models.
        max_new_tokens: Of each reply. Default: the evaluation's, and no less than 512.
    """

    def __init__(self, speakers: Speakers, *, max_new_tokens: int | None = None) -> None:
        self.speakers, self.max_new_tokens = speakers, max_new_tokens
        self.histories: dict[str, list[Message]] = {}
        self.reset()

    def say(self, text: str) -> dict[str, Reply]:
        """Each model's reply. A turn counts once all have replied: one that fails leaves no trace.

        Raises:
            DataError: the conversation is too long for the model.
        """
        asked = {
            role: [*history, {"role": "user", "content": text}] for role, history in self.histories.items()
        }
        replies = {
            role: next_reply(self.speakers, role, messages, max_new_tokens=self.max_new_tokens)
            for role, messages in asked.items()
        }
        for role, reply in replies.items():
            self.histories[role] = [*asked[role], {"role": "assistant", "content": reply.text}]
        return replies

    def reset(self) -> None:
        """Forget everything said."""
        self.histories = {role: [] for role in self.speakers.roles}


def next_reply(
    speakers: Speakers, role: str, messages: Sequence[Message], *, max_new_tokens: int | None = None
) -> Reply:
    """One model's reply to a conversation that ends with the user. The same conversation gives the same reply.

    The system message, the chat template, temperature and top-p are the run's. No instruction is added.

    Args:
        speakers: The models.
        role: Which of them.
        messages: The turns so far, without a system message.
        max_new_tokens: As in `Chat`.

    Raises:
        DataError: the conversation is too long for the model.
    """
    config, settings = speakers.config, speakers.config.evaluation
    system: list[Message] = (
        [{"role": "system", "content": config.prompts.system}] if config.prompts.system else []
    )
    prompt = tuple(speakers.encoder.encode([*system, *messages]))
    most = max_new_tokens or max(settings.max_new_tokens, MAX_NEW_TOKENS)
    room = most if speakers.max_context is None else speakers.max_context - len(prompt)
    if room < MIN_ROOM:
        raise DataError(
            f"The conversation has {len(prompt)} tokens, and the model reads {speakers.max_context}. "
            "Start anew: /reset, or the button that forgets it."
        )
    seed = derive_seed(config.seed, "chat", messages[-1]["content"], len(messages))
    sampling = Sampling(
        temperature=settings.temperature, top_p=settings.top_p, max_new_tokens=min(most, room)
    )
    ((_, (completion,)),) = speakers.engine(role).generate(
        [Request(prompt_ids=prompt, seeds=(seed,))], sampling
    )
    return make_reply(
        speakers.encoder.decode_reply(completion.token_ids),
        answer=None,
        is_cut=completion.finish_reason == "length",
        num_tokens=len(completion.token_ids),
    )
