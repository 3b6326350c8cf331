"""A few cases of the fuzzer of containers. `scripts/fuzz containers` runs more."""

import pytest

for _name in ("awkward", "datasets", "pandas", "polars", "pyarrow"):
    pytest.importorskip(_name)

from fuzz.containers import run_case  # noqa: E402 - the module needs these packages

pytestmark = pytest.mark.slow


def test_containers_equal_lists_and_bad_rows_are_named():
    outcomes = {run_case(seed).split(":")[0] for seed in range(50)}
    assert outcomes == {"equal", "refused"}
