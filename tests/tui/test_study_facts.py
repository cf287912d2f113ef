from __future__ import annotations

from pathlib import Path

import pytest
from support import add_plan

from patchcore.tui.study_facts import StudyReader


def test_an_empty_study_has_nothing_and_no_error(study: Path) -> None:
    facts = StudyReader(study).poll()
    assert facts.plan is None
    assert facts.cases == ()
    assert facts.volumes_mm3 == {}
    assert (facts.plan_error, facts.lesions_error, facts.cases_error) == (None, None, None)


def test_what_appears_later_is_read_and_what_stays_is_not_read_again(study: Path) -> None:
    reader = StudyReader(study)
    reader.poll()
    plan = add_plan(study)
    facts = reader.poll()
    assert facts.plan == plan
    assert len(facts.volumes_mm3[2]) == 200
    assert [case.status for case in facts.cases] == ["accepted", "accepted", "quarantined"]
    assert reader.poll() is facts
    (study / "plan.json").unlink()
    assert reader.poll().plan is None


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("plan.json", "{", "plan_error"),
        ("plan.json", '{"schema_version": 99}', "plan_error"),
        ("lesions.csv", "a,b\n1,2\n", "lesions_error"),
        ("lesions.csv", "label,volume_mm3\n2,many\n", "lesions_error"),
        ("cases.jsonl", "[]\n", "cases_error"),
    ],
)
def test_damaged_files_become_text(study: Path, name: str, text: str, field: str) -> None:
    add_plan(study)
    (study / name).write_text(text, encoding="utf-8")
    message = getattr(StudyReader(study).poll(), field)
    assert message.startswith(f"{name}: ")


def test_a_name_may_hold_what_unicode_takes_for_a_line_end(study: Path) -> None:
    line = '{"case_id": "a\u2028b\x85c", "patient": "p", "status": "accepted"}'
    (study / "cases.jsonl").write_text(f"{line}\n", encoding="utf-8")
    facts = StudyReader(study).poll()
    assert facts.cases_error is None
    assert [case.case_id for case in facts.cases] == ["a\u2028b\x85c"]
