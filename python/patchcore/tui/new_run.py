"""The form that starts a run: fields for common settings, a text area for all others, checked while typing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static, TextArea
from textual.worker import get_current_worker

from patchcore.tui.launch import launch_training
from patchcore.views.terminal import plain

__all__ = ["NewRun"]

# Id of the field, its label, and the setting that it sets.
_FIELDS = (
    ("steps", "Steps", "train.steps"),
    ("batch-size", "Batch size", "train.batch_size"),
    ("lr", "Learning rate", "optim.lr"),
    ("fold", "Fold", "train.fold"),
)
_PRESETS = ("tiny", "small", "base")
_RECIPES = ("plain", "lesions")


class NewRun(ModalScreen[str | None]):
    """Form for a new training. Returns the id of the started run, or None if cancelled.

    Args:
        study: The study folder.
        can_start: Whether the study has a plan.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "cancel", "Cancel"), ("ctrl+s", "start", "Start")]

    def __init__(self, study: Path, *, can_start: bool) -> None:
        super().__init__()
        self._study = study
        self._can_start = can_start
        self._starting = False
        self._hinted = False

    def compose(self) -> ComposeResult:
        """Create the fields and buttons."""
        with Vertical(classes="dialog wide", id="form"):
            yield Static("New run", classes="dialog-title", markup=False)
            with VerticalScroll(id="fields"):
                with Horizontal(classes="field"):
                    yield Label("Name")
                    yield Input(placeholder="optional: letters, digits, -", id="name", compact=True)
                with Horizontal(classes="field"):
                    yield Label("Model")
                    yield Select.from_values(_PRESETS, value="base", allow_blank=False, id="preset", compact=True)
                with Horizontal(classes="field"):
                    yield Label("Recipe")
                    yield Select.from_values(_RECIPES, value="plain", allow_blank=False, id="recipe", compact=True)
                for name, label, _ in _FIELDS:
                    with Horizontal(classes="field"):
                        yield Label(label)
                        yield Input(id=name, compact=True)
                yield Label("More settings, one section.key=value per line")
                yield TextArea(id="extra", compact=True, tab_behavior="focus")
            yield Static("", id="verdict", markup=False)
            with Horizontal(classes="dialog-buttons"):
                yield Button("Start (ctrl+s)", variant="success", id="start")
                yield Button("Cancel (esc)", id="cancel")

    def on_mount(self) -> None:
        """Focus the first field and show the defaults."""
        self.query_one("#name").focus()
        self._check()

    def settings(self) -> list[str]:
        """Return the form as ``section.key=value`` strings. Empty fields keep their defaults."""
        preset, recipe = (self.query_one(name, Select).value for name in ("#preset", "#recipe"))
        settings = [f"recipe={recipe}", f"model.preset={preset}"]
        for name, _, key in _FIELDS:
            value = self.query_one(f"#{name}", Input).value.strip()
            if value:
                settings.append(f"{key}={value}")
        lines = self.query_one("#extra", TextArea).text.splitlines()
        return settings + [line.strip() for line in lines if line.strip()]

    def on_input_changed(self) -> None:
        """Check the settings after typing."""
        self._check()

    def on_select_changed(self) -> None:
        """Check the settings after a choice."""
        self._check()

    def on_text_area_changed(self) -> None:
        """Check the settings after typing."""
        self._check()

    def on_input_submitted(self) -> None:
        """Start the run on Enter."""
        self.action_start()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Start or cancel, depending on the pressed button."""
        if event.button.id == "start":
            self.action_start()
        else:
            self.action_cancel()

    def action_cancel(self) -> None:
        """Close the form. A start that is already in progress continues."""
        self.dismiss(None)

    def action_start(self) -> None:
        """Start the run in a thread, so that the form stays responsive and can show an error."""
        if self._starting or self.query_one("#start", Button).disabled:
            return
        slug = self.query_one("#name", Input).value.strip() or None
        self._busy(True)
        self._say("starting …")
        self._start(self.settings(), slug)

    def _check(self) -> None:
        if not self._can_start:
            self._say("the study has no plan yet: first run  patchcore plan STUDY", error=True)
            self._busy(self._starting)
        elif not self._starting:
            self._validate(self.settings())

    @work(thread=True, exclusive=True, group="validate", exit_on_error=False)
    def _validate(self, settings: Sequence[str]) -> None:
        from patchcore.config.run import config_keys, resolve_config

        worker = get_current_worker()
        if not self._hinted:
            self._hinted = True
            keys = config_keys()
            hints = {name: f"default {keys[key][0]:g}: {keys[key][1]}" for name, _, key in _FIELDS}
            self.app.call_from_thread(self._hint, hints)
        try:
            config = resolve_config(settings=settings)
        except Exception as error:  # every error in the settings is shown in the form
            verdict, wrong = plain(error), True
        else:
            train, model = config.train, config.model
            verdict = (
                f"{model.preset}, hidden size {model.hidden_size}, recipe {config.recipe} · "
                f"{train.steps} steps of {train.batch_size} windows · "
                f"learning rate {config.optim.lr:g} · fold {train.fold} of {train.folds}"
            )
            wrong = False
        if not worker.is_cancelled:
            self.app.call_from_thread(self._show_verdict, verdict, wrong)

    @work(thread=True, group="start", exit_on_error=False)
    def _start(self, settings: Sequence[str], slug: str | None) -> None:
        app = self.app
        try:
            run_id = launch_training(self._study, settings, slug=slug)
        except Exception as error:  # shown in the form, which stays open for a correction
            app.call_from_thread(self._failed, plain(error))
        else:
            app.call_from_thread(self._started, run_id)

    def _started(self, run_id: str) -> None:
        if self.is_current:
            self.dismiss(run_id)

    def _failed(self, message: str) -> None:
        if self.is_current:
            self._busy(False)
            self._say(message, error=True)
        else:
            self.app.notify(message, title="The run was not started", severity="error", markup=False)

    def _show_verdict(self, verdict: str, wrong: bool) -> None:
        """Show a summary of the settings, or their error. With an error, the start button is disabled."""
        if self.is_mounted and not self._starting:
            self._say(verdict, error=wrong)
            self.query_one("#start", Button).disabled = wrong

    def _hint(self, hints: Mapping[str, str]) -> None:
        """Show the default and the meaning in each empty field. The thread loads them, since the import is slow."""
        for name, hint in hints.items():
            self.query_one(f"#{name}", Input).placeholder = hint

    def _say(self, text: str, *, error: bool = False) -> None:
        if self.is_mounted:
            verdict = self.query_one("#verdict", Static)
            verdict.update(text)
            verdict.set_class(error, "error")

    def _busy(self, busy: bool) -> None:
        self._starting = busy
        self.query_one("#start", Button).disabled = busy or not self._can_start
