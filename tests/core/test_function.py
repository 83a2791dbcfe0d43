"""What all functions with a gradient of their own share."""

import torch

from xmodal_losses._core.function import Function


class _Twice(Function):
    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class _Constant(Function):
    """Something that depends on its input and has no gradient in it."""

    @staticmethod
    def forward(x):
        return x.sign()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return None


def test_no_gradient_goes_on_as_none():
    x = torch.randn(3, requires_grad=True)
    _Constant.call(_Twice.call(x)).sum().backward()
    assert x.grad is None
    _Twice.call(x).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
