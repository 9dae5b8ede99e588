"""The student's weights as files that another engine reads: one folder for each time they are handed over."""

import shutil
import tempfile
from pathlib import Path

from peft import PeftModel


class AdapterFolders:
    """Writes the student's LoRA adapter into a new folder each time; the one before is removed.

    Args:
        root: A folder that the engine can read, too; a temporary one of this machine by default.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="neuron-opsd-adapter-", dir=root))
        self.count = 0

    def write(self, student: PeftModel) -> Path:
        """The folder that now holds the student's adapter, as safetensors."""
        before = self.root / str(self.count)
        self.count += 1
        folder = self.root / str(self.count)
        student.save_pretrained(str(folder))
        shutil.rmtree(before, ignore_errors=True)
        return folder

    def remove(self) -> None:
        """Delete all that was written."""
        shutil.rmtree(self.root, ignore_errors=True)
