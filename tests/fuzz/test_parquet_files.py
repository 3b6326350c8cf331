"""A few cases of the fuzzer of Parquet files. `scripts/fuzz parquet_files` runs more."""

import pytest

pytest.importorskip("pyarrow.parquet")

from fuzz.parquet_files import run_case

pytestmark = pytest.mark.slow


def test_damaged_files_are_refused_or_read_as_before():
    outcomes = [run_case(seed) for seed in range(60)]
    assert any(outcome.endswith("refused") for outcome in outcomes)
    assert not [outcome for outcome in outcomes if outcome.startswith("with checksums") and outcome.endswith("DIFFERENT")]
