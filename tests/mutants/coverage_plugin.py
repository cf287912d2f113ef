"""A pytest plugin: records which tests execute which lines, and how long each test takes.

``PATCHCORE_COVERAGE_OUT`` names the JSON file: ``{"lines": {file: {line: [test numbers]}}, "tests": [[id, seconds]]}``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import coverage
import pytest

_cov = coverage.Coverage(data_file=None, source=[os.environ["PATCHCORE_COVERAGE_OF"]], config_file=False)
_cov.set_option("run:disable_warnings", ["no-data-collected", "module-not-measured"])
_seconds: dict[str, float] = {}
_failed: set[str] = set()


def pytest_sessionstart() -> None:
    _cov.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    _cov.switch_context(item.nodeid)
    began = time.monotonic()
    result = yield
    _seconds[item.nodeid] = time.monotonic() - began
    _cov.switch_context("")
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed or report.skipped:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    _cov.stop()
    data = _cov.get_data()
    root = Path.cwd()
    tests = [name for name in _seconds if name not in _failed]
    number = {name: at for at, name in enumerate(tests)}
    lines: dict[str, dict[int, list[int]]] = {}
    for file in data.measured_files():
        by_line = {
            line: sorted(number[name] for name in names if name in number)
            for line, names in data.contexts_by_lineno(file).items()
        }
        lines[str(Path(file).relative_to(root))] = {line: found for line, found in by_line.items() if found}
    Path(os.environ["PATCHCORE_COVERAGE_OUT"]).write_text(
        json.dumps({"lines": lines, "tests": [[name, round(_seconds[name], 3)] for name in tests]})
    )
