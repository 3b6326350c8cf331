"""The private names of torch: what the functions around them answer, and where a release of torch lacks the names."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from padless import _torch_compat as compat


def test_functional_transforms_are_recognized():
    x, answers = torch.ones(2), []
    assert not compat.in_functional_transform() and not compat.in_functional_transform(x, None)
    torch.func.vmap(lambda y: answers.append(compat.in_functional_transform(y)) or y)(x)
    torch.func.grad(lambda y: answers.append(compat.in_functional_transform()) or y.sum())(x)
    with forward_ad.dual_level():
        answers.append(compat.in_functional_transform())
    assert answers == [True, True, True]


def test_batched_gradients_are_recognized_without_an_active_transform():
    answers = []

    class Record(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *grads):
            answers.append(compat.in_functional_transform(*grads))
            return grads[0]

    x = torch.ones(3, requires_grad=True)
    y = Record.apply(x)
    torch.autograd.grad(y, x, torch.eye(3), is_grads_batched=True, retain_graph=True)
    torch.autograd.grad(y, x, torch.ones(3))
    assert answers == [True, False]


def test_dispatch_modes_are_recognized():
    assert not compat.in_dispatch_mode()
    with FakeTensorMode():
        assert compat.in_dispatch_mode()


def test_without_a_name_the_answer_is_the_slower_one(monkeypatch):
    for name in ("is_functorch_wrapped_tensor", "is_legacy_batchedtensor"):
        with monkeypatch.context() as patched:
            patched.setattr(compat, name, None)
            assert compat.in_functional_transform()
    with monkeypatch.context() as patched:
        patched.setattr(compat, "current_dispatch_mode", None)
        assert compat.in_dispatch_mode()
    monkeypatch.delattr(forward_ad, "_current_level")
    assert compat.in_functional_transform()


@pytest.mark.filterwarnings("ignore")
def test_errors_of_torch_compile_are_distinguished_from_others():
    def breaks_the_graph(x):
        torch._dynamo.graph_break()
        return x

    with pytest.raises(RuntimeError) as caught:
        torch.compile(breaks_the_graph, fullgraph=True, backend="eager")(torch.ones(1))
    assert compat.is_torch_compile_error(caught.value)
    assert not compat.is_torch_compile_error(RuntimeError("raised by a layer"))


def test_writes_in_place_are_counted():
    x = torch.ones(2)
    count = compat.write_count(x)
    x.add_(1)
    assert compat.write_count(x) == count + 1
