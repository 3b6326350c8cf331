"""The first seeds of the fuzzer of backups."""

from fuzz.backups import run_case


def test_forged_backups_are_refused_before_anything_changes_or_continue():
    outcomes = {run_case(seed) for seed in range(20)}
    assert {"values, refused", "values, continued"} <= outcomes
