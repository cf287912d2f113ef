from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support import add_plan, attempt_in_process, fake_run, start, state_of, wait_until
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Button, Input, Static, TabbedContent, TextArea

from patchcore.runs.paths import RunPaths
from patchcore.tui import new_run
from patchcore.tui.app import DashboardApp
from patchcore.tui.case_scores import CaseScores
from patchcore.tui.confirm import Confirm
from patchcore.tui.help import Help
from patchcore.tui.histogram import Histogram
from patchcore.tui.new_run import NewRun
from patchcore.tui.plot import Plot
from patchcore.tui.run_header import RunHeader
from patchcore.tui.run_list import RunList
from patchcore.tui.watcher import Snapshot


def screen_text(app: App[None]) -> str:
    """Return the text on the screen, line by line."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


async def until(pilot: Pilot[None], condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        await pilot.pause(0.025)
        if condition():
            return
    raise AssertionError(f"{what}; on the screen:\n{screen_text(pilot.app)}")


@asynccontextmanager
async def dashboard(study: Path, size: tuple[int, int] = (100, 30)) -> AsyncIterator[Pilot[None]]:
    async with DashboardApp(study).run_test(size=size, notifications=True) as pilot:
        yield pilot


async def shows(pilot: Pilot[None], text: str) -> None:
    await until(pilot, lambda: text in screen_text(pilot.app), f"no {text!r}")


async def test_an_empty_study_says_what_to_do_next(study: Path) -> None:
    async with dashboard(study, (80, 24)) as pilot:
        await shows(pilot, "patchcore analyze DATASET STUDY")
        await pilot.press("3")
        await shows(pilot, "Nothing was measured yet")
        await pilot.press("4")
        await shows(pilot, "No cases yet")
        for key in ("s", "p", "r"):
            await pilot.press(key)
        await shows(pilot, "there is no run to")


@pytest.mark.parametrize("gone", ["#problem", "#right"])
async def test_a_report_that_arrives_while_the_dashboard_closes_is_dropped(study: Path, gone: str) -> None:
    async with dashboard(study) as pilot:
        await shows(pilot, "patchcore analyze DATASET STUDY")
        await pilot.app.query_one(gone).remove()
        pilot.app.post_message(DashboardApp.Reported(Snapshot(problem="late")))
        await pilot.pause()
        assert pilot.app.return_code is None


async def test_a_planned_study_without_runs_offers_to_start_one(study: Path) -> None:
    add_plan(study)
    async with dashboard(study) as pilot:
        await shows(pilot, "Press n to start one")


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
async def test_a_run_is_shown_with_its_curves_cases_and_details(study: Path, size: tuple[int, int], theme: str) -> None:
    add_plan(study)
    run = fake_run(study, slug="lively")
    with attempt_in_process(run) as writer:
        writer.progress(step=0, total_steps=80, eta_s=75.0)
        writer.state("running")
        for step in range(41):
            writer.metric(step, 3, {"train/loss": 1 / (1 + step), "train/window_dsc": step / 60})
        writer.case("v", {"case_id": "case_0", "dsc": 0.625, "voxel_count": 12}, step=40)
        writer.case("v", {"case_id": "case_1", "dsc": None}, step=40)
        writer.validation(40, 3, "v", {"val/dsc_mean": 0.625, "val/dsc_global": 0.5}, n_cases=1)
        writer.alert("warning", "[red]GPU[/red] is hot", "cool it")
        async with dashboard(study, size) as pilot:
            pilot.app.theme = theme
            await shows(pilot, "40/80")
            for part in (
                "● running",
                "val. mean 0.625",
                "lively",
                "50 %",
                "epoch 3",
                "ETA 1:15",
                "best DSC 0.625",
                "[red]GPU[/red]",
                "cool it",
            ):
                await shows(pilot, part)
            text = screen_text(pilot.app)
            assert any("\u2801" <= char <= "\u28ff" for char in text)
            await pilot.press("2")
            await shows(pilot, "mean DSC 0.625")
            await shows(pilot, "n = 1")
            await shows(pilot, "case_1")
            await pilot.press("5")
            await shows(pilot, run.name)


async def test_a_flexible_network_is_shown_at_each_patch_size(study: Path) -> None:
    add_plan(study)
    with attempt_in_process(fake_run(study, slug="flexible")) as writer:
        writer.state("running")
        by_size = {
            "val/dsc/patch/8": 0.5,
            "val/dsc/patch/12": 0.625,
            "val/dsc/patch/16": 0.25,
            "val/dsc/patch/24": 0.125,
        }
        for step in (20, 40):
            values = {"val/dsc_mean": 0.625, "val/selection": 0.375, **by_size}
            writer.validation(step, 3, f"v{step}", values, n_cases=1)
        async with dashboard(study, (150, 60)) as pilot:
            await shows(pilot, "by patch size: 8 0.500, 12 0.625, 16 0.250, 24 0.125")
            await shows(pilot, "DSC by patch size  ━ 8 0.500  ━ 12 0.625  ━ 16 0.250  ━ 24 0.125")
            await pilot.press("3")
            await until(
                pilot,
                lambda: any(
                    "▸ 12" in line and line.split("▸ 12")[1].rstrip(" │▎┃▌").endswith("0.625")
                    for line in screen_text(pilot.app).splitlines()
                ),
                "the DSC beside the candidate",
            )
            await shows(pilot, "best validation of the shown run")


async def test_the_plan_is_shown_with_its_histogram(study: Path) -> None:
    add_plan(study)
    async with dashboard(study, (120, 60)) as pilot:
        await pilot.press("3")
        await shows(pilot, "Patch size 12")
        for part in (
            "p* 11.2 (95 % interval 9.8–12.7)",
            "▸ 12",
            "512",
            "200 lesions",
            "The mean lesion fills",
            "warning: 40 %",
        ):
            await shows(pilot, part)
        assert pilot.app.query_one(Histogram).display
        await shows(pilot, "█")


async def test_quarantined_cases_come_first_with_reason_and_remedy(study: Path) -> None:
    add_plan(study)
    async with dashboard(study, (140, 30)) as pilot:
        await pilot.press("4")
        await shows(pilot, "1 quarantined")
        await shows(pilot, "export one channel")
        text = screen_text(pilot.app)
        assert text.index("case_2") < text.index("case_0")


async def test_damaged_files_are_reported_and_nothing_ends(study: Path) -> None:
    add_plan(study)
    (study / "plan.json").write_text("{", encoding="utf-8")
    async with dashboard(study) as pilot:
        await pilot.press("3")
        # One word: where the message wraps depends on the length of the path.
        await shows(pilot, "(Expecting")


@pytest.mark.parametrize(
    "value", ['"text"', '{"a": "b"}', "[1]", "true", "1" + "0" * 400, "1e999", "1.7e308", "-1.7e308", "null"]
)
async def test_unexpected_numbers_in_a_run_never_end_the_dashboard(study: Path, value: str) -> None:
    run = fake_run(study)
    with attempt_in_process(run) as writer:
        for step in range(1, 30):
            writer.metric(step, 0, {"train/loss": 1 / step, "train/window_dsc": 0.5})
    paths = RunPaths(run)
    status = json.loads(paths.status.read_text())
    spoilt = status | {"best": {"dsc_mean": "VALUE"}, **dict.fromkeys(("eta_s", "step", "epoch"), "VALUE")}
    paths.status.write_text(json.dumps(spoilt).replace('"VALUE"', value))
    events = paths.events(1)
    lines = events.read_text().splitlines()
    seq = json.loads(lines[-1])["seq"]
    head = '{"v":1,"t":1.0,"mono":1.0,"epoch":0,"step":999,'
    lines.append(
        f'{head}"seq":{seq + 1},"kind":"metric","values":{{"train/loss":{value},"train/window_dsc":{value}}}}}'
    )
    lines.append(f'{head}"seq":{seq + 2},"kind":"metric","values":{{"train/loss":-1.7e308,"train/window_dsc":0.1}}}}')
    lines.append(
        f'{head}"seq":{seq + 3},"kind":"validation","validation_id":"0000999","n_cases":{value},'
        f'"values":{{"val/dsc_mean":{value},"val/lesion_recall":{value}}}}}'
    )
    events.write_text("\n".join(lines) + "\n")
    (paths.cases / "0000999.jsonl").write_text(
        f'{{"case_id":"spoilt","dsc":{value},"volume_mm3":{value},"false_positives":{value},"lesions":{value}}}\n'
        '{"case_id":"whole","dsc":0.75,"volume_mm3":5.0,"false_positives":1,"lesions":[{"found":true}]}\n'
    )
    async with dashboard(study) as pilot:
        for key in "12345":
            await pilot.press(key)
            await pilot.pause(0.3)
        await pilot.press("2")
        await shows(pilot, "whole")
        await shows(pilot, "0.750")
        if value not in ("null",):
            await shows(pilot, "unreadable")
        assert pilot.app.is_running
        assert pilot.app.return_code in (None, 0)


async def test_a_finished_run_is_not_resumed(study: Path) -> None:
    run = fake_run(study)
    with attempt_in_process(run) as writer:
        writer.state("finished")
    assert state_of(run) == "finished"
    async with dashboard(study) as pilot:
        await shows(pilot, "finished")
        await pilot.press("r")
        await shows(pilot, "nothing to resume")
        assert not isinstance(pilot.app.screen, Confirm)


async def test_a_pane_that_cannot_show_a_record_says_so(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchcore.tui.curves import Curves

    run = fake_run(study)
    with attempt_in_process(run) as writer:
        writer.metric(1, 0, {"train/loss": 1.0})

    def fail(*_: object) -> None:
        raise ValueError("a number [bold]that[/] is none")

    monkeypatch.setattr(Curves, "show", fail)
    async with dashboard(study) as pilot:
        await shows(pilot, "is unreadable (ValueError: a number")
        await shows(pilot, "[bold]that[/] is none).")
        monkeypatch.undo()


async def test_keys_move_between_runs_and_tabs(study: Path) -> None:
    names = [fake_run(study, slug=slug).name for slug in ("one", "two", "three")]
    async with dashboard(study) as pilot:
        await until(pilot, lambda: pilot.app.query_one(RunList).option_count == 3, "three runs")
        newest_first = sorted(names, reverse=True)
        chosen = lambda: pilot.app._watcher._selected.name  # noqa: E731
        for key, index in (("j", 1), ("down", 2), ("k", 1), ("up", 0)):
            await pilot.press(key)
            await until(pilot, lambda index=index: chosen() == newest_first[index], f"run {index} after {key}")
        await pilot.press("tab", "right")
        await until(pilot, lambda: pilot.app.query_one(TabbedContent).active == "scores", "the next tab")
        await pilot.press("question_mark")
        assert isinstance(pilot.app.screen, Help)
        await pilot.press("escape", "colon")
        await until(pilot, lambda: "Palette" in type(pilot.app.screen).__name__, "the palette")


async def test_a_run_is_stopped_and_resumed_after_a_question(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    run = fake_run(study, steps=100_000, step_s=0.01)
    start(run)
    async with dashboard(study) as pilot:
        await shows(pilot, "● running ·")
        header = pilot.app.query_one(RunHeader)
        await pilot.press("s")
        assert isinstance(pilot.app.screen, Confirm)
        await pilot.press("n")
        await pilot.pause(0.5)
        assert state_of(run) == "running"
        await pilot.press("s", "y")
        await until(pilot, lambda: "stopped" in str(header.content), "stopped")
        await pilot.press("s")
        await shows(pilot, "nothing to stop")
        await pilot.press("r", "y")
        await until(pilot, lambda: "attempt 2" in str(header.content), "the second attempt")
        await until(pilot, lambda: "running" in str(header.content), "running again")
        await pilot.press("p", "y")
        await until(pilot, lambda: "paused" in str(header.content), "paused")


async def test_quitting_leaves_the_run_alone_and_a_new_dashboard_has_its_history(study: Path) -> None:
    run = fake_run(study, steps=100_000, step_s=0.01)
    start(run)
    try:
        async with dashboard(study) as pilot:
            await until(pilot, lambda: "running" in screen_text(pilot.app), "running")
            await pilot.press("q")
        assert state_of(run) == "running"
        async with dashboard(study) as pilot:
            await until(
                pilot, lambda: any(plot._curves for plot in pilot.app.query("#loss").results(Plot)), "the curves"
            )
            curve = pilot.app.query_one("#loss", Plot)._curves[0]
            assert curve.steps[0] == 0
    finally:
        from patchcore.runs import request

        request(run, "stop")
        wait_until(lambda: state_of(run) == "stopped", "the end of the run")


async def test_the_form_checks_live_and_shows_why_a_start_failed(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_plan(study)
    asked: list[tuple[list[str], str | None]] = []

    def launch(study: Path, settings: list[str], *, slug: str | None) -> str:
        asked.append((list(settings), slug))
        if len(asked) == 1:
            raise RuntimeError("the disk is [b]full[/b]")
        return fake_run(study, slug="new").name

    monkeypatch.setattr(new_run, "launch_training", launch)
    async with dashboard(study) as pilot:
        await shows(pilot, "Press n")
        await pilot.press("n")
        form = pilot.app.screen
        assert isinstance(form, NewRun)
        verdict, button = form.query_one("#verdict", Static), form.query_one("#start", Button)
        await until(pilot, lambda: "20000 steps" in str(verdict.content), "the defaults")
        form.query_one("#steps", Input).value = "many"
        await until(pilot, lambda: "train.steps" in str(verdict.content), "the complaint")
        assert button.disabled
        form.query_one("#steps", Input).value = "30"
        form.query_one("#extra", TextArea).text = "train.nonsense=1"
        await until(pilot, lambda: "train.nonsense: unknown key" in str(verdict.content), "the unknown key")
        form.query_one("#extra", TextArea).text = "seed=3\n\noptim.clip_norm=0.5"
        form.query_one("#name", Input).value = "mine"
        await until(pilot, lambda: "30 steps" in str(verdict.content) and not button.disabled, "agreement")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "the disk is [b]full[/b]" in str(verdict.content), "the failure")
        assert asked[0] == (
            ["recipe=plain", "model.preset=base", "train.steps=30", "seed=3", "optim.clip_norm=0.5"],
            "mine",
        )
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not isinstance(pilot.app.screen, NewRun), "the form to close")
        await shows(pilot, "new-")


async def test_without_a_plan_nothing_can_be_started(study: Path) -> None:
    async with dashboard(study) as pilot:
        await shows(pilot, "Make a plan first")
        await pilot.press("n")
        await shows(pilot, "the study has no plan yet")
        await pilot.press("ctrl+s")
        assert isinstance(pilot.app.screen, NewRun)
        assert pilot.app.screen.query_one("#start", Button).disabled
        assert not pilot.app.screen._starting


async def test_control_characters_of_a_run_never_reach_the_terminal(study: Path) -> None:
    run = fake_run(study)
    with attempt_in_process(run) as writer:
        writer.state("running")
        writer.alert("error", "bad\x1b]0;owned\x07 \x1b[2Jtext\u202e", "re\x9bmedy")
        writer.case("v", {"case_id": "\x1b[31mcase", "dsc": 0.5}, step=1)
        writer.validation(1, 0, "v", {"val/dsc_mean": 0.5}, n_cases=1)
        async with dashboard(study) as pilot:
            await shows(pilot, "bad�]0;owned")
            shown = screen_text(pilot.app)
            await pilot.press("2")
            await shows(pilot, "�[31mcase")
            shown += screen_text(pilot.app)
            assert not set(shown) & set("\x1b\x07\x9b\u202e")
            assert pilot.app.query_one(CaseScores)


async def test_quit_ends_promptly_with_the_watcher(study: Path) -> None:
    app = DashboardApp(study)
    async with app.run_test() as pilot:
        await shows(pilot, "No runs yet")
        workers = list(app.workers)
        await pilot.press("q")
    assert app.return_code == 0
    assert app._watcher._stopped
    assert all(worker.is_finished for worker in workers if worker.group == "watcher")


def test_importing_the_app_loads_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys, patchcore.tui.app;"
        "print(*[m for m in ('torch','monai','numpy','pydantic','matplotlib','scipy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.strip() == ""
