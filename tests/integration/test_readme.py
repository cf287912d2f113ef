"""The Python of README and docs runs as it stands, on phantoms; their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from patchcore.phantoms import make_phantoms

ROOT = Path(__file__).parents[2]
# The README first: the pages go on with its names.
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_phantoms(tmp_path / "dataset", cases=3, seed=1, shape=(64, 64, 48), spacing=(3.0, 3.0, 4.0))
    label_file = sorted((dataset / "labels").iterdir())[0]
    image = nib.load(dataset / "images" / label_file.name)
    (tmp_path / "segmentation.nii.gz").write_bytes(label_file.read_bytes())
    (tmp_path / "ct.nii.gz").write_bytes((dataset / "images" / label_file.name).read_bytes())
    monkeypatch.chdir(tmp_path)
    snippets = [
        (page, snippet)
        for page in PAGES
        for snippet in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ]
    # The phantoms' window is smaller than the README's; nothing else differs.
    names: dict[str, Any] = {
        "mask": np.asanyarray(nib.load(label_file).dataobj) == 2,
        "volume": np.asanyarray(image.dataobj),
        "corners": np.array([[0, 0, 0], [-20, 10, 5]]),
        "spacing": (3.0, 3.0, 4.0),
    }
    for page, snippet in snippets:
        exec(compile(snippet, str(page), "exec"), names)
    lesions, components, plan, windows = (names[n] for n in ("lesions", "components", "plan", "windows"))
    assert lesions.voxel_count.sum() == names["mask"].sum()
    assert components.max() == len(lesions)
    assert windows.image.shape == (2, 96, 96, 96)
    assert 0 <= windows.image.min() < windows.image.max() <= 1
    assert plan.patch_size[0] in (8, 12, 16, 24)
    assert names["model"].patch_size == plan.patch_size
    assert names["case"].image_array.shape == names["case"].shape
    assert names["fine"].shape == (128, 128, 96)
    assert names["found"].label.shape == names["found"].image.shape == (2, 32, 32, 32)
    assert names["batch"]["image"].shape[:2] == (2, 1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []
