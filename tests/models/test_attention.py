"""Attention of the U-Net: what is written out for training on a CPU equals torch's own."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from geo4d.models import attention
from geo4d.models.attention import attend


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_values_and_gradients_are_those_of_the_fused_kernel(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, 2, tokens, 16, generator=generator).to(dtype) for tokens in (20, 7, 7)]
    target = torch.randn(3, 2, 20, 16, generator=generator)
    found = []
    for function in (attend, scaled_dot_product_attention):
        leaves = [each.clone().requires_grad_() for each in inputs]
        out = function(*leaves)
        (out.float() * target).sum().backward()
        found.append([out, *(leaf.grad for leaf in leaves)])
    for own, torchs in zip(*found, strict=True):
        assert own.dtype == dtype
        assert (own - torchs).float().norm() <= tolerance * torchs.float().norm()


def test_large_attention_keeps_no_weights(monkeypatch):
    q = torch.randn(1, 1, 5, 4, requires_grad=True)
    called = []
    monkeypatch.setattr(attention, "scaled_dot_product_attention", lambda *parts: called.append(parts) or parts[2])
    attend(q, q, q)
    assert not called
    monkeypatch.setattr(attention, "WRITTEN_OUT", 24)
    attend(q, q, q)
    attend(q.detach(), q.detach(), q.detach())
    assert len(called) == 2
