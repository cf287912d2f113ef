"""The clock of a training: remaining time, and when a time limit leaves room only for the last validation."""

from __future__ import annotations

import pytest

from patchcore.training import loop
from patchcore.training.loop import _Clock


def test_the_remaining_time_follows_the_steps_and_counts_validations() -> None:
    clock = _Clock(0.0)
    assert clock.eta_s(0, 10, 5) is None
    clock.stepped(2.0)
    assert clock.eta_s(4, 10, 5) == pytest.approx(12.0)
    clock.stepped(4.0)  # one slow step changes the estimate by a twentieth of the difference
    assert clock.eta_s(9, 10, 5) == pytest.approx(2.1)
    clock.validation_s = 30.0
    assert clock.eta_s(4, 10, 5) == pytest.approx(6 * 2.1 + 2 * 30)


def test_a_limit_of_time_keeps_room_for_validations() -> None:
    clock = _Clock(100.0)
    assert 100 <= clock.seconds() < 160
    assert not clock.is_out_of_time(0, 1e9, True)
    assert clock.is_out_of_time(3, 90, False)
    assert not clock.is_out_of_time(30, 90, False)
    assert clock.is_out_of_time(30, 900, True)
    assert not clock.is_out_of_time(30, 800, True)


def test_a_checkpoint_is_due_after_its_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    clock = _Clock(0.0)
    now[0] += 120
    assert not clock.is_save_due(2)
    now[0] += 0.5
    assert clock.is_save_due(2)
    clock.saved()
    assert not clock.is_save_due(2)
