"""Types of the compiled core. It is private: use the public functions, which check arguments and are documented."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

__all__ = [
    "CHUNK",
    "ChunkCache",
    "ForeignArray",
    "LabelStream",
    "MaskPair",
    "StoredArray",
    "WindowSampler",
    "__version__",
    "blend_windows",
    "choose_classes",
    "component_spans",
    "component_spans_of_file",
    "examine_ct_array",
    "examine_ct_file",
    "extract_windows",
    "finish_blend",
    "gaussian_importance",
    "inflated_bytes",
    "instance_norm",
    "instance_norm_gradient",
    "label_components",
    "label_overlaps",
    "measure_array",
    "measure_file",
    "prepare_case_bytes",
    "prepare_case_image",
    "prepare_case_labels",
    "read_nifti_header",
    "read_nifti_voxels",
    "read_store_label_windows",
    "read_store_windows",
    "resample_array",
    "resample_class_indices",
    "texture_features",
    "uniforms",
    "window_grid",
    "write_store_region",
]

import numpy as np
import numpy.typing as npt

__version__: str

# --- measuring ---

def measure_array(
    array: npt.NDArray[Any],
    affine: list[list[float]],
    *,
    labels: list[int] | None,
    connectivity: int,
    instances: bool,
    min_volume_mm3: float,
    axial_axis: int | None,
    threads: int | None,
) -> dict[str, Any]: ...
def measure_file(
    path: Path,
    *,
    labels: list[int] | None,
    connectivity: int,
    instances: bool,
    min_volume_mm3: float,
    affine: list[list[float]] | None,
    axial_axis: int | None,
) -> tuple[dict[str, Any], dict[str, Any]]: ...

# --- comparing ---

def label_overlaps(
    truth: npt.NDArray[Any], prediction: npt.NDArray[Any], *, threads: int | None
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]], list[tuple[int, int]]]: ...

@final
class MaskPair:
    def __new__(
        cls,
        truth: npt.NDArray[Any],
        prediction: npt.NDArray[Any],
        *,
        labels: list[int] | None,
        connectivity: int,
        instances: bool,
        min_voxels: int,
        threads: int | None,
    ) -> MaskPair: ...
    def tables(self, affine: list[list[float]], *, axial_axis: int | None) -> tuple[dict[str, Any], dict[str, Any]]: ...
    def on_specks(self) -> npt.NDArray[np.int64]: ...
    def overlaps(self) -> npt.NDArray[np.int64]: ...
    def dilated(self, iterations: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
    def nearest_voxels(self, spacing: tuple[float, float, float]) -> npt.NDArray[np.int64]: ...
    def surfaces(
        self,
        groups: Sequence[tuple[list[int], list[int]]],
        spacing: tuple[float, float, float],
        *,
        conventions: list[str],
        percents: list[float],
        tolerances_mm: list[float],
        threads: int | None,
    ) -> list[list[dict[str, Any]]]: ...

# --- preparing ---

def prepare_case_bytes(
    source: Path | npt.NDArray[Any],
    placement: Any,
    *,
    shards: tuple[tuple[int, int, int], tuple[int, int, int]],
    classes: int,
    threads: int,
) -> int: ...
def prepare_case_image(
    source: Path | npt.NDArray[Any],
    placement: Any,
    folder: Path,
    *,
    shard: tuple[int, int, int],
    nan: int,
    threads: int | None,
) -> int: ...
def prepare_case_labels(
    source: Path | npt.NDArray[Any],
    placement: Any,
    folder: Path,
    *,
    shard: tuple[int, int, int],
    classes: list[int],
    lesion_label: int,
    connectivity: int,
    voxel_mm3: float,
    min_volume_mm3: float,
    threads: int | None,
) -> dict[str, Any]: ...

CHUNK: list[int]

@final
class StoredArray:
    def __new__(
        cls,
        folder: Path,
        *,
        shape: tuple[int, int, int],
        shard: tuple[int, int, int],
        dtype: str,
        fill: int,
        known: list[tuple[int, int] | None] | None,
    ) -> StoredArray: ...
    def verify(self) -> tuple[int, int, int]: ...

@final
class ForeignArray:
    def __new__(cls, folder: Path) -> ForeignArray: ...
    def read(
        self, start: tuple[int, int, int], stop: tuple[int, int, int], dtype: str, *, threads: int | None
    ) -> npt.NDArray[Any]: ...

def write_store_region(
    folder: Path,
    region: npt.NDArray[Any],
    *,
    shape: tuple[int, int, int],
    shard: tuple[int, int, int],
    start: tuple[int, int, int],
    fill: int,
    threads: int | None,
) -> int: ...

@final
class ChunkCache:
    def __new__(cls, most_bytes: int) -> ChunkCache: ...
    def counts(self) -> tuple[int, int, int]: ...

def read_store_windows(
    arrays: Sequence[StoredArray],
    corners: npt.NDArray[np.int64],
    window_size: tuple[int, int, int],
    out: npt.NDArray[Any],
    *,
    format: str,
    hu_range: Sequence[tuple[float, float]] | None,
    padding: float,
    labels: Sequence[StoredArray] | None,
    label_out: npt.NDArray[np.uint8] | None,
    cache: ChunkCache | None,
    threads: int | None,
) -> None: ...
def read_store_label_windows(
    arrays: Sequence[StoredArray],
    corners: npt.NDArray[np.int64],
    window_size: tuple[int, int, int],
    out: npt.NDArray[np.uint8],
    *,
    threads: int | None,
) -> None: ...
def resample_array(
    array: npt.NDArray[Any],
    *,
    ratio: tuple[float, float, float],
    shape: tuple[int, int, int],
    cubic: tuple[bool, bool, bool],
    antialias: bool,
    nan: float,
    threads: int | None,
) -> tuple[npt.NDArray[np.int16], list[int]]: ...
def resample_class_indices(
    array: npt.NDArray[Any],
    *,
    ratio: tuple[float, float, float],
    shape: tuple[int, int, int],
    classes: int,
    threads: int | None,
) -> tuple[npt.NDArray[np.uint8], list[int]]: ...
def inflated_bytes(path: Path) -> int: ...
def read_nifti_header(path: Path) -> dict[str, Any]: ...
def label_components(
    array: npt.NDArray[Any], *, labels: list[int] | None, connectivity: int, threads: int | None
) -> tuple[npt.NDArray[Any], int]: ...
def component_spans(
    array: npt.NDArray[Any], *, labels: list[int] | None, connectivity: int, instances: bool
) -> dict[str, Any]: ...
def component_spans_of_file(
    path: Path, *, labels: list[int] | None, connectivity: int, instances: bool
) -> dict[str, Any]: ...

# --- reading CTs ---

def read_nifti_voxels(path: Path) -> tuple[npt.NDArray[np.uint64], dict[str, Any]]: ...
def examine_ct_file(
    path: Path,
    *,
    origin: npt.NDArray[np.int32],
    length: npt.NDArray[np.int32],
    spacing: tuple[float, float, float],
    radius_mm: float,
    lowest: float,
    highest: float,
    sample: int,
) -> dict[str, Any]: ...
def examine_ct_array(
    array: npt.NDArray[Any],
    *,
    origin: npt.NDArray[np.int32],
    length: npt.NDArray[np.int32],
    spacing: tuple[float, float, float],
    radius_mm: float,
    lowest: float,
    highest: float,
    sample: int,
) -> dict[str, Any]: ...

# --- windows, blending, sampling ---

def extract_windows(
    volumes: Sequence[npt.NDArray[Any]],
    corners: npt.NDArray[np.int64],
    window_size: tuple[int, int, int],
    out: npt.NDArray[Any],
    *,
    format: str,
    hu_range: tuple[float, float] | None,
    padding: float,
    labels: Sequence[npt.NDArray[Any]] | None,
    label_corners: npt.NDArray[np.int64] | None,
    label_out: npt.NDArray[np.uint8] | None,
    threads: int | None,
) -> None: ...
def window_grid(
    shape: tuple[int, int, int],
    window_size: tuple[int, int, int],
    overlap: tuple[float, float, float],
) -> npt.NDArray[np.int64]: ...
def gaussian_importance(
    window_size: tuple[int, int, int], sigma: tuple[float, float, float]
) -> npt.NDArray[np.float32]: ...
def blend_windows(
    total: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    corners: npt.NDArray[np.int64],
    predictions: npt.NDArray[np.float32],
    importance: npt.NDArray[np.float32],
    *,
    channels: int,
    shape: tuple[int, int, int],
    window_size: tuple[int, int, int],
    threads: int | None,
) -> None: ...
def finish_blend(total: npt.NDArray[np.float32], weight: npt.NDArray[np.float32], *, threads: int | None) -> None: ...
def uniforms(
    seed: int, step: int, positions: npt.NDArray[np.uint32], purpose: int, count: int
) -> npt.NDArray[np.float64]: ...

# --- predicting ---

_Rule = tuple[list[tuple[int, list[int]]] | None, tuple[int, float] | None, list[int]]

@final
class LabelStream:
    def __new__(
        cls,
        channels: int,
        shape: tuple[int, int, int],
        models: Sequence[
            tuple[
                tuple[int, int, int], tuple[int, int, int], tuple[float, float, float], npt.NDArray[np.float32], float
            ]
        ],
        *,
        rule: _Rule,
        keep_probability: bool,
        threads: int | None,
    ) -> LabelStream: ...
    def add(self, model: int, corners: npt.NDArray[np.int64], predictions: npt.NDArray[np.float32] | None) -> None: ...
    def reached(self) -> list[int]: ...
    def finish(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]: ...

def choose_classes(
    values: npt.NDArray[np.float32],
    *,
    shape: tuple[int, int, int, int],
    out_shape: tuple[int, int, int],
    ratio: tuple[float, float, float],
    rule: _Rule,
    threads: int | None,
) -> npt.NDArray[np.uint8]: ...

# --- sampling ---

@final
class WindowSampler:
    def __new__(
        cls,
        cases: Sequence[Any],
        window_size: tuple[int, int, int],
        *,
        seed: int,
        shares: tuple[float, float, float, float],
        alpha: float,
        hard_case: Sequence[int],
        hard_voxel: npt.NDArray[np.int64],
        hard_weight: npt.NDArray[np.float64],
    ) -> WindowSampler: ...
    def draw(
        self, step: int, positions: npt.NDArray[np.uint32]
    ) -> tuple[
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        npt.NDArray[np.uint8],
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
    ]: ...
    def lesions_in(self, cases: Sequence[int], corners: npt.NDArray[np.int64]) -> list[tuple[int, int]]: ...

def texture_features(
    image: npt.NDArray[np.float64],
    mask: npt.NDArray[np.bool_],
    spacing: tuple[float, float, float],
    *,
    intensity_range: tuple[float, float] | None,
    bin_width: float | None,
    bin_count: int | None,
) -> list[tuple[str, float]]: ...

# --- networks ---

def instance_norm(
    x: npt.NDArray[np.float32],
    residual: npt.NDArray[np.float32] | None,
    out: npt.NDArray[np.float32],
    statistics: npt.NDArray[np.float32],
    *,
    samples: int,
    channels: int,
    eps: float,
    slope: float,
    threads: int,
) -> None: ...
def instance_norm_gradient(
    x: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32] | None,
    gradient: npt.NDArray[np.float32],
    statistics: npt.NDArray[np.float32],
    of_x: npt.NDArray[np.float32],
    of_residual: npt.NDArray[np.float32] | None,
    *,
    samples: int,
    channels: int,
    slope: float,
    threads: int,
) -> None: ...
