"""Set up all tests: Keras on torch, checked shapes in the kernels, and fresh names and random numbers for each test."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import hypothesis
import jaxtyping

_hook = jaxtyping.install_import_hook(["padless.kernels", "padless.ragged.gather"], "beartype.beartype")
_hook.__enter__()

import pytest  # noqa: E402 - padless must be imported under the hook
import torch  # noqa: E402

import padless  # noqa: E402

collect_ignore = ["pretend.py"]  # it registers a simulated device in torch, which cannot be undone in a process

hypothesis.settings.register_profile(
    "padless",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("padless")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Mark all hypothesis tests as slow; other slow tests have the marker in their file."""
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def reset_names_and_random_numbers():
    """Give each test the same names of layers and the same random numbers."""
    padless.clear_session()
    torch.manual_seed(0)
