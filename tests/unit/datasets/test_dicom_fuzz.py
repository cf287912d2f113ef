"""Test a fixed number of mutated DICOM archives; ``python tests/fuzz_dicom.py --count 10000`` runs more."""

from __future__ import annotations

from pathlib import Path

import fuzz_dicom


def test_mutants_end_in_a_volume_or_an_error_of_ours(tmp_path: Path) -> None:
    ends, failures = fuzz_dicom.run(300, 0, tmp_path)
    assert failures == []
    assert sum(ends.values()) == 300
    # Both outcomes occur: the mutator neither destroys every file nor leaves every file readable.
    assert ends["fine"] > 10
    assert sum(ends.values()) - ends["fine"] > 10


def test_labels_that_are_accepted_have_the_voxels_of_an_independent_reader(tmp_path: Path) -> None:
    ends, failures = fuzz_dicom.run(300, 1, tmp_path, labels=True)
    assert failures == []
    assert sum(ends.values()) == 300
    assert ends["compared"] > 50
    assert sum(ends.values()) - ends["compared"] > 50
