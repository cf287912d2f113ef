"""Peer of bench_texture.py; runs in an environment of its own: ``python texture_peers.py ARRAYS.npz`` prints JSON."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from mirp import extract_features

MARGIN = 10
FLAT = ["2d_average", "2d_slice_merge", "2.5d_direction_merge", "2.5d_volume_merge"]
DIRECTIONS = [*FLAT, "3d_average", "3d_volume_merge"]
ZONES = ["2d", "2.5d", "3d"]


def main() -> None:
    """Compute the features of every lesion; the first one is computed before, so that imports do not count."""
    arrays = np.load(sys.argv[1])
    image, labels, spacing = arrays["image"], arrays["labels"], arrays["spacing"].tolist()

    def features(number: int) -> dict[str, float]:
        # The box around the lesion: on the whole image mirp takes a hundred times as long. Its axes are z, y, x.
        places = np.argwhere(labels == number)
        box = tuple(
            slice(max(0, low - MARGIN), high + MARGIN + 1)
            for low, high in zip(places.min(0), places.max(0), strict=True)
        )
        found = extract_features(
            image=np.ascontiguousarray(image[box].transpose(2, 1, 0)).astype(np.float32),
            mask=np.ascontiguousarray((labels[box] == number).transpose(2, 1, 0)).astype(np.uint8),
            image_modality="ct",
            image_spacing=None,
            by_slice=False,
            resegmentation_intensity_range=[-1000.0, 400.0],
            base_feature_families="all",
            base_discretisation_method="fixed_bin_size",
            base_discretisation_bin_width=25.0,
            glcm_spatial_method=DIRECTIONS,
            glrlm_spatial_method=DIRECTIONS,
            glszm_spatial_method=ZONES,
            gldzm_spatial_method=ZONES,
            ngtdm_spatial_method=ZONES,
            ngldm_spatial_method=ZONES,
            write_features=False,
            export_features=True,
        )
        row = found[0].iloc[0]
        return {name: float(row[name]) for name in row.index if isinstance(row[name], (int, float, np.number))}

    features(1)
    began = time.perf_counter()
    found = [features(number) for number in range(1, int(labels.max()) + 1)]
    print(json.dumps({"seconds": time.perf_counter() - began, "features": found, "spacing": spacing}))


if __name__ == "__main__":
    main()
