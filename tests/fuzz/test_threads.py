"""The first seeds of the fuzzer of threads."""

from fuzz.threads import run_case


def test_threads_that_share_models_get_the_bits_of_one_thread_or_are_refused():
    outcomes = {run_case(seed) for seed in range(5)}
    assert {"inference, all ran", "training, some refused"} <= outcomes
