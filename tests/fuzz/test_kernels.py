"""A few cases of the fuzzer of kernels, with fixed seeds."""

import jaxtyping
import pytest

from fuzz.kernels import run_case
from padless.kernels.native import library

pytestmark = pytest.mark.slow


@pytest.mark.skipif(library.get_library() is None, reason="there are no compiled kernels")
def test_kernels_equal_the_reference_and_refuse_a_forged_index(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of the tests
    outcomes = [run_case(seed) for seed in range(60)]
    assert len(set(outcomes)) > 15
