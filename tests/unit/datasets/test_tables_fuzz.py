"""Test a fixed number of the mutants of :mod:`fuzz_tables`; run the module by hand for more."""

from fuzz_tables import fuzz_images, fuzz_tables


def test_mutated_json_and_csv_are_read_or_refused_with_a_word() -> None:
    outcomes = fuzz_tables(400, seed=11)
    assert sum(outcomes.values()) == 400
    assert {name.rsplit(": ")[1] for name in outcomes} == {"read", "refused"}


def test_mutated_volumes_are_read_or_refused_within_memory() -> None:
    outcomes = fuzz_images(300, seed=11)
    assert sum(outcomes.values()) == 300
    assert {name.rsplit(": ")[1] for name in outcomes} == {"read", "refused"}
