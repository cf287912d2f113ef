"""Fuzz test for DICOM: reading a mutated archive gives volumes or patchcore errors, in limited time and memory.

    python tests/fuzz_dicom.py --count 10000 --seed 0
    python tests/fuzz_dicom.py --count 100000 --seed 0 --labels

With ``--labels`` only SEG and RTSTRUCT are changed, and the voxel count of every segment that is accepted is compared
with that of the independent readers of ``dicom_reference``, which read the same bytes.

Each mutant is a whole archive with one changed file (bits, bytes, lengths, cuts, values of tags). The test searches,
reads and measures the archive. Mutants run in child processes with limits on address space and processor time. If a
child process dies, the test reports the mutant that caused it.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np

from children import batches, limit_processor_time

MEMORY = 3 << 30
"""Limit of the address space of a child process [bytes]: interpreter, libraries and threads. The files have 100 KiB."""
BATCH = 250
SECONDS = 20
"""Limit of the processor time per mutant [s]."""


def seeds(folder: Path) -> list[Path]:
    """Write one archive per kind of file. Return the folders."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

    import dicom_files as files

    masks = np.zeros((5, 34, 40, 2), bool)
    masks[1:4, 4:20, 3:15, 0] = masks[2:4, 8:12, 8:12, 1] = True
    disjoint = masks.copy()
    disjoint[..., 0] &= ~disjoint[..., 1]
    names = ["Liver", "Tumor_1"]
    made = []
    for kind, syntax in (
        ("BINARY", ExplicitVRLittleEndian),
        ("FRACTIONAL", RLELossless),
        ("LABELMAP", JPEGLSLossless),
        ("LABELMAP", ExplicitVRLittleEndian),
    ):
        series = files.ct_series()
        seg = files.segmentation(series, disjoint if kind == "LABELMAP" else masks, names, kind=kind, syntax=syntax)
        made.append([*series, seg])
    for syntax in (JPEGLSLossless, RLELossless, DeflatedExplicitVRLittleEndian):
        series = files.ct_series()
        seg = files.segmentation(series, masks, names)
        for item in series:
            if syntax.is_encapsulated:
                plugin = "pydicom" if syntax == RLELossless else ""
                item.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
            else:
                item.file_meta.TransferSyntaxUID = syntax
        made.append([*series, seg])
    series = files.ct_series()
    corners = np.array([[-8, -15, 32.5], [0, -15, 32.5], [0, -5, 32.5], [-8, -5, 32.5]])
    made.append([*series, files.rtstruct(series, {"Tumor": [corners]})])
    whole = files.enhanced(files.ct_series())
    made.append([whole])
    made.append([made[0][-1]])
    folders = []
    for order, items in enumerate(made):
        files.save(items, folder / str(order))
        folders.append(folder / str(order))
    return folders


def label_seeds(folder: Path) -> list[Path]:
    """Write one archive per kind of SEG and RTSTRUCT. Return the folders; the last file is the label."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLSLossless

    import dicom_files as files

    random = np.random.default_rng(0)
    masks = random.random((5, 34, 40, 2)) < 0.1
    disjoint = masks.copy()
    disjoint[..., 0] &= ~disjoint[..., 1]
    made = []
    for kind, syntax in (
        ("BINARY", ExplicitVRLittleEndian),
        ("BINARY", DeflatedExplicitVRLittleEndian),
        ("FRACTIONAL", ExplicitVRLittleEndian),
        ("LABELMAP", ExplicitVRLittleEndian),
        ("LABELMAP", JPEGLSLossless),
    ):
        series = files.ct_series()
        deflated = syntax == DeflatedExplicitVRLittleEndian
        seg = files.segmentation(
            series,
            disjoint if kind == "LABELMAP" else masks,
            ["Liver", "Tumor_1"],
            kind=kind,
            syntax=ExplicitVRLittleEndian if deflated else syntax,
        )
        if deflated:
            seg.file_meta.TransferSyntaxUID = syntax
        made.append([*series, seg])

    def box(low: float, high: float, k: float) -> np.ndarray:
        corners = np.array([[low, low], [high, low], [high, high], [low, high]])
        return np.column_stack([-10.5 + 0.7 * corners[:, 0], -20.25 + 0.8 * corners[:, 1], np.full(4, 30 + 2.5 * k)])

    turn = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    round_one = np.column_stack([4 * np.cos(turn), 4 * np.sin(turn), np.full(30, 35.0)])
    rois = (
        {"Tumor": [box(2.3, 15.6, 1), box(4.2, 8.1, 1), box(14.4, 20.3, 1), round_one, box(3.3, 9.4, 3)]},
        {
            "Tumor": [box(2.3, 15.6, 1.3), box(4.2, 8.1, 1.2), box(2.1, 9.9, 2.4)],
            "Liver": [box(1, 25, 2), box(1, 25, 2)],
        },
    )
    for number in range(4):
        series = files.ct_series()
        structure = files.rtstruct(series, rois[number % 2])
        if number > 1:
            for item in structure.ROIContourSequence[0].ContourSequence:
                item.ContourGeometricType = "CLOSEDPLANAR_XOR"
        made.append([*series, structure])
    folders = []
    for order, items in enumerate(made):
        files.save(items, folder / str(order))
        folders.append(folder / str(order))
    return folders


def compare(folder: Path, work: Path) -> str:
    """Read the label of an archive and compare its voxel counts with those of an independent reader.

    Raises:
        AssertionError: A count differs.
    """
    import dicom_reference as reference
    from patchcore.datasets.dicom.find import find_dicom
    from patchcore.datasets.dicom.measure import measure_segments
    from patchcore.datasets.layouts.indices import with_indices
    from patchcore.errors import DataError

    try:
        cases = [case for case in with_indices(find_dicom(folder), work).cases if case.problem is None]
        cases = [case for case in cases if case.image is not None]
        measured = [(case, measure_segments(case.label)) for case in cases]
    except (DataError, OSError) as error:
        str(error).encode("utf-8", "surrogateescape")
        return type(error).__name__
    grid: tuple[tuple[float, ...], tuple[float, ...], tuple[int, int, int]]
    grid = ((-10.5, -20.25, 30.0), (0.7, 0.8, 2.5), (40, 34, 5))
    for case, found in measured:
        path = case.label.files()[1]
        counts = sorted((str(row["name"]), int(row["voxel_count"])) for row in found.segments)
        try:
            if case.label.source.kind == "rtstruct":
                volumes = reference.read_rtstruct(path, *grid)
                low = sorted((name, int((item.mask & ~item.doubtful).sum())) for name, item in volumes)
                high = sorted((name, int((item.mask | item.doubtful).sum())) for name, item in volumes)
            else:
                by_number = {int(row["segment"]): str(row["name"]) for row in found.segments}
                masks = reference.read_seg(path, *grid)
                low = high = sorted((by_number[number], int(mask.sum())) for number, mask in masks.items())
        except reference.DoubtfulError:
            return "doubtful"
        names = [name for name, _ in counts]
        assert names == [name for name, _ in low] == [name for name, _ in high], f"{counts} instead of {low}"
        between = zip(counts, low, high, strict=True)
        assert all(a <= count <= b for (_, count), (_, a), (_, b) in between), f"{counts}, not {low} to {high}"
        return "compared"
    return "not accepted"


def mutate(content: bytes, random: np.random.Generator) -> bytes:
    """Return the content with 1 to 4 random changes."""
    data = bytearray(content)
    # Most changes are in the header, because lengths and sizes are there.
    end = min(len(data), 4000) if random.random() < 0.8 else len(data)
    for _ in range(int(random.integers(1, 5))):
        at = int(random.integers(0, max(end, 1)))
        kind = int(random.integers(0, 7))
        if kind == 0:
            data[at % len(data)] ^= 1 << int(random.integers(0, 8))
        elif kind == 1:
            data[at % len(data)] = int(random.integers(0, 256))
        elif kind == 2:
            extreme = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"\xfe\xff\xdd\xe0", b"\x01\x00")
            piece = extreme[int(random.integers(0, len(extreme)))]
            data[at : at + len(piece)] = piece
        elif kind == 3:
            del data[at : at + int(random.integers(1, 64))]
        elif kind == 4:
            data[at:at] = data[at : at + int(random.integers(1, 200))]
        elif kind == 5:
            digits = [n for n in range(max(0, at - 200), min(len(data), at + 200)) if 48 <= data[n] < 58]
            for n in digits[: int(random.integers(1, 6))]:
                data[n] = b"0123456789-.eNI"[int(random.integers(0, 15))]
        elif random.random() < 0.3:
            del data[at:]
        if not data:
            return b"\0"
        end = min(end, len(data))
    return bytes(data)


def try_archive(folder: Path, work: Path) -> str:
    """Search, read and measure an archive. Return the most frequent outcome."""
    from patchcore.datasets.dicom.find import find_dicom
    from patchcore.datasets.dicom.measure import measure_segments
    from patchcore.datasets.layouts.indices import with_indices
    from patchcore.errors import DataError
    from patchcore.volumes.volume import read_header, read_image, read_label

    ends = []
    try:
        layout = with_indices(find_dicom(folder), work)
    except (DataError, OSError) as error:
        return type(error).__name__
    for case in layout.cases:
        if case.problem is not None:
            ends.append("problem")
            continue
        steps = [(read_header, case.image), (read_image, case.image)] if case.image is not None else []
        for step, path in (*steps, (read_header, case.label), (read_label, case.label), (measure_segments, case.label)):
            try:
                step(path)
                ends.append("fine")
            except (DataError, OSError) as error:
                ends.append(type(error).__name__)
                str(error).encode("utf-8", "surrogateescape")
    return max(set(ends), key=ends.count) if ends else "nothing"


def child(start: int, stop: int, seed: int, kept: Path, *, labels: bool = False) -> int:
    """Run mutants `start` to `stop`. Print the number of each mutant before it runs, and its outcome after."""
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        archives = (label_seeds if labels else seeds)(root / "seeds")
        contents = [{file.name: file.read_bytes() for file in archive.iterdir()} for archive in archives]
        try_archive(archives[0], root / "warm")
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        for number in range(start, stop):
            random = np.random.default_rng([seed, number])
            which = int(random.integers(0, len(archives)))
            files = contents[which]
            # Change the last file (SEG or RTSTRUCT) as often as all slices together.
            order = sorted(files)
            victim = order[-1] if labels or random.random() < 0.5 else order[int(random.integers(0, len(order)))]
            folder = root / "now"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name_of, content in files.items():
                (folder / name_of).write_bytes(mutate(content, random) if name_of == victim else content)
            print(f"at {number}", flush=True)
            limit_processor_time(SECONDS)
            try:
                end = (compare if labels else try_archive)(folder, root / "index")
                print(f"end {end}", flush=True)
            except BaseException:
                traceback.print_exc()
                shutil.copytree(folder, kept / str(number), dirs_exist_ok=True)
                print(f"bad {number}", flush=True)
            shutil.rmtree(root / "index", ignore_errors=True)
    return 0


def run(
    count: int, seed: int, kept: Path, *, labels: bool = False, verbose: bool = False, start: int = 0
) -> tuple[dict[str, int], list[str]]:
    """Run mutants in batches. Return the number of mutants per outcome, and the failures."""
    ends: dict[str, int] = {}
    failures = []
    settings = ["--seed", str(seed), "--kept", str(kept), *["--labels"] * labels]
    work = batches(
        lambda first, stop: [__file__, "--child", str(first), str(stop), *settings],
        start,
        count,
        batch=BATCH,
        timeout_s=60 + 30 * BATCH,
    )
    for word, number, rest, errors in work:
        if word == "end":
            ends[rest] = ends.get(rest, 0) + 1
        elif word == "bad":
            failures.append(f"mutant {rest}: {errors[-1500:]}")
        elif word == "died":
            failures.append(f"mutant {number} ended the process with exit code {rest}: {errors[-1500:]}")
        elif verbose:
            print(f"{number} of {count}, {len(failures)} failures: {ends}", flush=True)
    return ends, failures


def main() -> int:
    """Run the fuzz test from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="first mutant, to resume")
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--child", type=int, nargs=2)
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "patchcore-fuzz-dicom")
    given = parser.parse_args()
    if given.child:
        return child(*given.child, given.seed, given.kept, labels=given.labels)
    ends, failures = run(given.count, given.seed, given.kept, labels=given.labels, verbose=True, start=given.start)
    for failure in failures[:20]:
        print(failure)
    print(f"{sum(ends.values())} of {given.count} mutants passed: {ends}; {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
