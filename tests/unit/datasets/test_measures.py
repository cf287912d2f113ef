"""Stamps of files: what counts as a change."""

from __future__ import annotations

import os
from pathlib import Path

from patchcore.datasets.measures import stamp_of


def test_an_older_slice_of_equal_size_is_a_change(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("1.dcm", "2.dcm", "3.dcm")]
    for number, file in enumerate(files):
        file.write_bytes(b"slice")
        os.utime(file, ns=(number, 100 + number))
    before = stamp_of(files)
    assert before.same_files(stamp_of(files))
    os.utime(files[0], ns=(0, 50))
    after = stamp_of(files)
    assert (before.size, before.mtime_ns) == (after.size, after.mtime_ns)
    assert not before.same_files(after)
    assert not stamp_of(files[:1]).parts
