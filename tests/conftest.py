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

collect_ignore = ["simulated_device.py"]  # it registers a device in torch, which cannot be undone

hypothesis.settings.register_profile(
    "padless",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("padless")
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by `-m`
def pytest_collection_modifyitems(items):
    """Mark hypothesis tests and the doctests of the checks as slow; other slow tests have the marker themselves."""
    for item in items:
        is_hypothesis = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if is_hypothesis or item.nodeid.startswith("padless/testing/check.py"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def reset_names_and_random_numbers():
    """Give each test the same names of layers and the same random numbers."""
    padless.clear_session()
    torch.manual_seed(0)


@pytest.fixture
def restore_registrations():
    """Remove what a test registers or replaces in `get_custom_objects()`."""
    registered = dict(padless.saving.get_custom_objects())
    yield
    padless.saving.get_custom_objects().clear()
    padless.saving.get_custom_objects().update(registered)
