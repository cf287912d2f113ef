"""Tests of the window reader: results, refused input, error messages, several processes."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import patchcore as pc
from patchcore.errors import CorruptFileError, NonIntegralLabelError, PatchcoreError, UnsupportedDataError, WindowError
from patchcore.store import write_array
from patchcore.store.window_reader import WindowReader
from patchcore.volumes.nifti_windows import NiftiWindows
from patchcore.windows.blending import WindowBlender

VOLUME = np.arange(30 * 31 * 32, dtype=np.int16).reshape(30, 31, 32)
LABEL = (VOLUME % 3).astype(np.uint8)


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Path]:
    write_array(tmp_path / "image", VOLUME)
    write_array(tmp_path / "label", LABEL)
    return tmp_path / "image", tmp_path / "label"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "ct.nii")
    return tmp_path / "ct.nii"


def test_into_the_callers_memory(stored: tuple[Path, Path]) -> None:
    reader = WindowReader([stored])
    out, label_out = np.empty((2, 1, 8, 9, 10), np.float32), np.empty((2, 8, 9, 10), np.uint8)
    windows = reader.read(0, [(0, 0, 0), (25, 25, 25)], (8, 9, 10), out=out, label_out=label_out)
    assert windows.image is out
    assert windows.label is label_out
    np.testing.assert_array_equal(out[0, 0], VOLUME[:8, :9, :10])
    assert out[1, 0, -1, -1, -1] == -1024
    assert label_out[1, -1, -1, -1] == 0


def test_a_grid_of_windows_put_together_is_the_volume(stored: tuple[Path, Path]) -> None:
    reader = WindowReader([stored[0]])
    corners = reader.grid(0, (16, 12, 20), overlap=0.4)
    blender = WindowBlender(reader.shape(0), 1, (16, 12, 20), sigma=None)
    for start in range(0, len(corners), 5):
        part = corners[start : start + 5]
        blender.add(part, reader.read(0, part, (16, 12, 20)).image[:, None])
    np.testing.assert_array_equal(blender.result()[0], VOLUME)


def test_a_window_larger_than_its_case_holds_all_of_it(stored: tuple[Path, Path], plain: Path) -> None:
    for case in (stored[0], plain, VOLUME):
        reader = WindowReader([case])
        window = reader.read(0, (-5, -5, -5), (64, 64, 64), dtype="int16", padding=7).image[0]
        np.testing.assert_array_equal(window[5:35, 5:36, 5:37], VOLUME)
        assert int((window == 7).sum()) >= 64**3 - VOLUME.size


def test_plain_files_are_read_in_part_only(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    read: list[int] = []
    preadv = os.preadv

    def counted(file: int, buffers: Any, offset: int) -> int:
        read.append(preadv(file, buffers, offset))
        return read[-1]

    monkeypatch.setattr(os, "preadv", counted)
    WindowReader([plain]).read(0, (3, 4, 5), (6, 7, 8))
    # One read per slice, from the first to the last row.
    assert read == [2 * (6 * 30 + 6)] * 8


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"cases": 3}, WindowError, "case index 3 is not within 0 to 1"),
        ({"cases": [0, 1, 0]}, WindowError, "one case index per window"),
        ({"cases": 1, "with_labels": True}, WindowError, "case 1 has no label map"),
        ({"dtype": "float64"}, WindowError, "float64"),
        ({"dtype": "int16", "hu_range": (0, 1)}, WindowError, "int16"),
        ({"hu_range": (1, 0)}, WindowError, "range"),
        ({"window_size": (0, 1, 1)}, WindowError, "window_size"),
        ({"out": np.empty((1, 2, 2, 2), np.float32)}, WindowError, "out: shape"),
        ({"out": np.empty((2, 4, 4, 4), np.float32)[:, ::2, ::2, ::2]}, WindowError, "not C-contiguous"),
        ({"label_out": np.empty((2, 2, 2, 2), np.int8)}, WindowError, "label_out"),
    ],
)
@pytest.mark.parametrize("source", ["stored", "array"])
def test_what_does_not_fit_is_reported(
    given: Any, error: type[Exception], words: str, source: str, stored: tuple[Path, Path]
) -> None:
    pair, alone = (stored, stored[0]) if source == "stored" else ((VOLUME, LABEL), VOLUME)
    reader = WindowReader([pair, alone])
    arguments: Any = {"cases": 0, "corners": [(0, 0, 0), (1, 1, 1)], "window_size": (2, 2, 2)} | given
    with pytest.raises(error, match=words):
        reader.read(arguments.pop("cases"), arguments.pop("corners"), arguments.pop("window_size"), **arguments)


def test_what_holds_no_windows_is_refused(stored: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedDataError, match="case 0"):
        WindowReader([np.zeros((3, 3))])
    with pytest.raises(UnsupportedDataError, match="only one of image and label map is in a store"):
        WindowReader([(stored[0], LABEL)])
    with pytest.raises(WindowError, match="label shape"):
        WindowReader([(VOLUME, LABEL[1:])])
    with pytest.raises(FileNotFoundError):
        WindowReader([tmp_path / "gone.nii"])
    (tmp_path / "text.nii").write_text("not a NIfTI")
    with pytest.raises(PatchcoreError):
        WindowReader([tmp_path / "text.nii"])


def test_a_file_that_shrinks_is_reported(plain: Path) -> None:
    reader = WindowReader([plain])
    plain.write_bytes(plain.read_bytes()[:5000])
    with pytest.raises(CorruptFileError, match="ends before its last voxel"):
        reader.read(0, (20, 20, 20), (10, 10, 10))


def test_labels_that_are_not_integers_are_reported(plain: Path, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(VOLUME.astype(np.float32) + 0.5, np.eye(4)), tmp_path / "half.nii")
    with pytest.raises(NonIntegralLabelError, match="is not an integer"):
        WindowReader([(plain, tmp_path / "half.nii")]).read(0, (0, 0, 0), (4, 4, 4))


def test_it_crosses_processes(stored: tuple[Path, Path], plain: Path) -> None:
    reader = WindowReader([stored, plain], cache_bytes=1 << 20)
    expected = reader.read([0, 1], [(1, 2, 3)] * 2, (9, 9, 9), with_labels=False).image
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(copy.read([0, 1], [(1, 2, 3)] * 2, (9, 9, 9), with_labels=False).image, expected)
    assert copy.cache.most_bytes == 1 << 20
    pickle.loads(pickle.dumps(NiftiWindows(plain)))


def _forked(reader: WindowReader, queue: Any) -> None:
    queue.put(reader.read([0, 0], [(0, 0, 0)] * 2, (30, 30, 30)).image.sum())


def test_after_a_fork(stored: tuple[Path, Path]) -> None:
    reader = WindowReader([stored], cache_bytes=1 << 22)
    expected = reader.read([0, 0], [(0, 0, 0)] * 2, (30, 30, 30)).image.sum()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_forked, args=(reader, queue))
    child.start()
    assert queue.get(timeout=30) == expected
    child.join(10)
    assert child.exitcode == 0


def test_it_is_offered_at_the_top() -> None:
    assert pc.WindowReader is WindowReader


def test_buffers_in_the_memory_of_a_volume_are_refused() -> None:
    volume, label = VOLUME.copy(), LABEL.copy()
    swapped = VOLUME.astype(">i2")
    for cases, out in (
        ([volume], {"out": volume.reshape(-1)[:512].reshape(1, 8, 8, 8), "dtype": "int16"}),
        ([swapped], {"out": swapped.view(np.int16).reshape(-1)[:512].reshape(1, 8, 8, 8), "dtype": "int16"}),
        ([(volume, label)], {"label_out": label.reshape(-1)[:512].reshape(1, 8, 8, 8)}),
        ([(volume, label)], {"label_out": volume.view(np.uint8).reshape(-1)[:512].reshape(1, 8, 8, 8)}),
    ):
        arguments: Any = out
        with pytest.raises(WindowError, match="a buffer overlaps a volume"):
            WindowReader(cases).read([0], [(0, 0, 0)], (8, 8, 8), **arguments)
    assert (volume == VOLUME).all()
    assert (label == LABEL).all()


def test_a_pair_whose_name_is_not_utf8_is_read(tmp_path: Path) -> None:
    for number, endings in enumerate(((b".hdr", b".img"), (b".HDR", b".IMG"), (b".hdr", b".img.gz"))):
        stem = os.fsencode(tmp_path) + b"/ct\xff%d" % number
        nibabel.Nifti1Pair(VOLUME, np.eye(4)).to_filename(tmp_path / "ct.hdr")
        (tmp_path / "ct.hdr").rename(os.fsdecode(stem + endings[0]))
        voxels = (tmp_path / "ct.img").read_bytes()
        Path(os.fsdecode(stem + endings[1])).write_bytes(
            gzip.compress(voxels) if endings[1].endswith(b"gz") else voxels
        )
        path = Path(os.fsdecode(stem + endings[0]))
        np.testing.assert_array_equal(
            WindowReader([path]).read([0], [(0, 0, 0)], (8, 8, 8)).image[0], VOLUME[:8, :8, :8]
        )


def test_threads_that_cannot_be_started_are_an_error_of_the_system() -> None:
    """In a process of its own: the limit of threads belongs to the user and cannot be raised again."""
    code = """
import resource, os
import numpy as np
import patchcore as pc
volume = np.zeros((64, 64, 64), np.uint8)
volume[::3, ::3, ::3] = 1
pc.measure_lesions(volume[:4, :4, :4], spacing=(1, 1, 1))  # imports what another user may not read
os.setuid(65533) if os.geteuid() == 0 else None
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    pc.measure_lesions(volume, spacing=(1, 1, 1))
except OSError as error:
    print("OSError", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "panicked" not in done.stderr
    assert done.stdout.startswith("OSError")
