"""The summary of an analysis: text for a terminal of 80 columns, and JSON for programs."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fingerprints import build, measures
from patchcore.study import Study
from patchcore.study.cases import CaseRecord, Finding
from patchcore.study.layout import Layout
from patchcore.views.summary import print_summary, summary_json, summary_text


def finding(check: str, level: str = "geometry", message: str = "is odd", **fields: Any) -> Finding:
    return Finding.model_validate({"check": check, "level": level, "message": message, **fields})


def record(case_id: str, status: str = "accepted", *findings: Finding, **fields: Any) -> CaseRecord:
    made: CaseRecord = measures(case_id).record.model_copy(update={"status": status, "findings": findings, **fields})
    return made


def analysis(folder: Path, *others: CaseRecord, items: Sequence[Any] | None = None, reused: int = 0) -> Any:
    """Return a stand-in for an analysis with two accepted cases of one patient, and other cases."""
    items = [measures("p1_a", volume=2500.0), measures("p1_b", volume=500.0)] if items is None else items
    study, source = folder / "my study", folder / "data set"
    return SimpleNamespace(
        study=Study.create(study, source),
        command=f"patchcore analyze {shlex.quote(str(source))} {shlex.quote(str(study))}",
        layout=Layout("two-folders", "images/ and labels/ found", ()),
        grouping=SimpleNamespace(description="by prefix"),
        records=(*(item.record for item in items), *others),
        fingerprint=build(*items) if items else None,
        reused_count=reused,
        findings=(),
    )


def commands(text: str) -> list[list[str]]:
    """Return every shown command, split as a shell splits it."""
    return [shlex.split(line) for line in text.splitlines() if line.strip().startswith("patchcore analyze")]


def test_numbers_of_lesions_burden_and_spacing_are_shown(tmp_path: Path) -> None:
    shown = summary_text(analysis(tmp_path, reused=1))
    rows = {line.strip()[:18].strip(): line.split()[-7:] for line in shown.splitlines()}
    assert rows["volume per lesion"] == ["1.5", "0.6", "1", "1.5", "2", "2.4", "2.5"]
    assert rows["volume per patient"] == ["3"] * 7
    assert rows["lesions per patient"[:18]] == ["2"] * 7
    assert "1 × 2 × 4 mm" in shown
    assert "2 accepted, 1 unchanged" in shown
    assert "1 tumour" in shown
    assert "patchcore plan" in shown


def test_cases_that_are_their_own_patients_are_not_listed_twice(tmp_path: Path) -> None:
    shown = summary_text(analysis(tmp_path, items=[measures("p1_a"), measures("p2_a")]))
    assert "volume per case" in shown
    assert "per patient " not in shown


def test_held_cases_come_with_commands_that_can_be_typed(tmp_path: Path) -> None:
    odd = finding("unit-spacing", message="1 mm all around", remedy="say the spacing with --spacing")
    held = [record(f"h{i}_a b", "held", odd) for i in range(7)]
    held.append(
        record("tilted", "held", finding("sheared-affine", remedy="patchcore analyze DATASET STUDY --accept …"))
    )
    done = analysis(tmp_path, *held)
    shown = summary_text(done)
    assert "8 held" in shown
    assert "unit-spacing in 7 cases (h0_a b, h1_a b, h2_a b and 4 more)" in shown.replace("\n", " ")
    start = ["patchcore", "analyze", str(done.study.dataset_root), str(done.study.path)]
    expected = [[*start, "--spacing", f"h{i}_a b=A,B,C"] for i in range(5)]
    assert commands(shown) == [
        *expected,
        [*start, "--accept", "all:unit-spacing"],
        [*start, "--accept", "tilted:sheared-affine"],
    ]


def test_quarantined_decided_and_warned_are_reported_apart(tmp_path: Path) -> None:
    shown = summary_text(
        analysis(
            tmp_path,
            record("q_1", "quarantined", reason="x.nii: ends early", remedy="replace the file"),
            record("t_1", "test", finding("empty-label", "warning", "has no label")),
            record("w_1", "accepted", finding("empty-label", "warning", "has no label")),
            record("d_1", "accepted", finding("sheared-affine", decided=True)),
            record("e_1", "excluded", finding("empty-label", "warning", "has no label")),
        )
    )
    assert "4 accepted, 1 kept for testing, 1 quarantined, 1 excluded" in shown
    assert "q_1: x.nii: ends early\n  → replace the file" in shown
    assert "Warnings: 2\nempty-label in 2 cases (t_1, w_1); t_1: has no label" in shown
    assert "Decided: 1\nsheared-affine in d_1: is odd" in shown
    assert commands(shown) == []


def test_nothing_but_commands_is_wider_than_80_columns_and_no_markup_is_read(tmp_path: Path) -> None:
    long = "[red]" + "a_very_long_case_id_" * 6
    odd = finding("unit-spacing", message="words " * 40, remedy="words " * 40)
    held, bad = record(long, "held", odd), record(f"{long}2", "quarantined", reason="[bold]" + "why " * 50, remedy="do")
    item = measures("p1_a", volume=1.23456e9)
    shown = summary_text(analysis(tmp_path, held, bad, items=[item, measures("p1_b", volume=1e-3)]))
    assert "[red]" in shown
    assert "[bold]" in shown
    assert "\x1b" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if "patchcore" not in line)


def test_text_and_terminal_say_the_same(tmp_path: Path) -> None:
    done, out = analysis(tmp_path), io.StringIO()
    print_summary(done, Console(file=out, width=80, color_system=None))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == summary_text(done).splitlines()
    assert "\n\n\n" not in summary_text(done)


def test_without_accepted_cases_nothing_can_be_planned(tmp_path: Path) -> None:
    shown = summary_text(analysis(tmp_path, record("q_1", "quarantined", reason="bad"), items=[]))
    assert "No case was accepted" in shown
    assert "patchcore plan" not in shown


def test_json_says_the_same_to_programs(tmp_path: Path) -> None:
    done = analysis(tmp_path, record("h_1", "held", finding("sheared-affine"), reason="tilted", remedy="accept it"))
    found = json.loads(json.dumps(summary_json(done), allow_nan=False))
    assert (found["accepted"], found["test"], found["quarantined"], found["excluded"]) == (2, 0, [], [])
    assert found["held"] == [{"case_id": "h_1", "reason": "tilted", "remedy": "accept it"}]
    assert [(item["case_id"], item["check"], item["level"]) for item in found["findings"]] == [
        ("h_1", "sheared-affine", "geometry")
    ]
    assert found["fingerprint"]["labels"][0]["burden_per_patient"]["names"] == ["p1"]
    assert "cases" not in found["fingerprint"]
    assert found["figures"] == []


@pytest.mark.parametrize("module", ["patchcore.views.summary", "patchcore.views.html", "patchcore.study"])
def test_importing_loads_no_heavy_package(module: str) -> None:
    code = f"import sys, {module}; print(*{{'matplotlib', 'nibabel', 'scipy', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == ""


def test_many_labels_are_cut_short(tmp_path: Path) -> None:
    item = measures("p1_a")
    rows = replace(item.lesions.rows(np.zeros(30, np.int64)), label=np.arange(1, 31))
    shown = summary_text(analysis(tmp_path, items=[replace(item, lesions=rows)]))
    assert "and 10 more labels in fingerprint.json" in shown
