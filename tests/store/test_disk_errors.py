"""What a write that fails tells a user to do."""

import errno
import os

import pytest

from neuron_opsd.errors import RunFolderError
from neuron_opsd.store.files import explain_disk_errors


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "Free space, or choose another folder."),
        (errno.EEXIST, "exists. Choose another folder."),
        (errno.EACCES, "denied. Choose another folder."),
    ],
)
def test_a_write_that_fails_says_what_helps(tmp_path, number, way_out):
    """Room helps a full disk alone."""
    with pytest.raises(RunFolderError) as refused, explain_disk_errors(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))
    assert way_out in str(refused.value)
    assert ("Free space" in str(refused.value)) == (number == errno.ENOSPC)
