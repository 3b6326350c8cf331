"""Every test: Keras on torch, shapes enforced in the kernels, names and random numbers from the start."""

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


@pytest.fixture(autouse=True)
def fresh():
    """Each test begins with the same names and random numbers."""
    padless.clear_session()
    torch.manual_seed(0)
