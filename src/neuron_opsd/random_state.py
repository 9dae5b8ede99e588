"""Random state that depends on what is drawn, never on the order in which it is drawn."""

import hashlib
import json


def derive_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed from the run's seed and a path such as ("rollouts", question_id, rollout_index).

    Equal arguments give equal seeds on every machine. Batch size, order and the number of processes change nothing.
    """
    payload = json.dumps([seed, *parts], ensure_ascii=True).encode()
    return int.from_bytes(hashlib.sha256(payload).digest()[:8], "big") >> 1
