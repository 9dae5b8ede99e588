"""The student's weights as files that another engine reads: one folder for each time they are handed over."""

import shutil
import tempfile
import weakref
from pathlib import Path

from neuron_opsd.model.load import CausalLM


class StudentFolders:
    """Writes the student's adapter, or all its weights, into a new folder each time. The one before is removed.

    Nothing is left when the process ends, however the run went, but by SIGKILL.

    Args:
        root: A folder that the engine can read, too. A temporary one of this machine by default.
    """

    def __init__(self, root: Path | None = None) -> None:
        if root is not None:
            root.mkdir(parents=True, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="neuron-opsd-student-", dir=root))
        if root is not None:
            self.root.chmod(0o755)  # a server may run as another user
        self.count = 0
        self.remove = weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)

    def write(self, student: CausalLM) -> Path:
        """The folder that now holds the student, as safetensors."""
        before = self.root / str(self.count)
        self.count += 1
        folder = self.root / str(self.count)
        student.save_pretrained(str(folder))
        shutil.rmtree(before, ignore_errors=True)
        return folder


def vllm_rank(rank: int) -> int:
    """The smallest rank that vLLM can be told as the largest one, and that an adapter of this rank fits."""
    return next((allowed for allowed in (8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank), rank)
