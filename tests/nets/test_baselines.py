"""The baseline heads: shapes, the attention against loops, and what each can see.

Shapes: B images, C channels, N = h·w positions of a feature map.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from hemnet.nets import DeepLabV3PlusHead, FCNHead, NonLocalHead, PSPHead
from hemnet.nets.baselines import NonLocalBlock

IN_CHANNELS, CLASSES = (4, 6, 8, 10), 3
HEADS = {
    "nonlocal": (NonLocalHead, {"channels": 12}, (9, 7)),
    "pspnet": (PSPHead, {"channels": 5}, (9, 7)),
    "deeplabv3plus": (DeepLabV3PlusHead, {"channels": 5, "low_channels": 3, "dilations": (1, 2)}, (18, 14)),
}


def head(name: str) -> nn.Module:
    torch.manual_seed(0)
    kind, options, _ = HEADS[name]
    return kind(IN_CHANNELS, CLASSES, **options)


def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, *size, generator=generator, requires_grad=True)
        for channels, size in zip(IN_CHANNELS, ((18, 14), (9, 7), (9, 7), (9, 7)), strict=True)
    ]


@pytest.mark.parametrize("name", HEADS)
def test_logits_have_the_stated_shape_and_reach_every_weight(name):
    network = head(name)
    if name == "nonlocal":
        nn.init.ones_(network.context.bn.weight)  # zero at the start, which stops the gradient behind it
    logits = network(maps())
    assert logits.shape == (2, CLASSES, *HEADS[name][2])
    logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_one_far_corner_is_seen_by_the_other(name):
    network, features = head(name).eval(), maps()
    if name == "nonlocal":
        nn.init.ones_(network.context.bn.weight)
    network(features)[:, :, 0, 0].sum().backward()
    assert features[-1].grad[:, :, -1, -1].abs().sum() > 0
    plain = FCNHead(IN_CHANNELS, CLASSES, channels=12).eval()
    features = maps()
    plain(features)[:, :, 0, 0].sum().backward()
    assert features[-1].grad[:, :, -1, -1].abs().sum() == 0


def test_attention_is_that_of_loops_and_starts_as_the_identity():
    torch.manual_seed(0)
    block = NonLocalBlock(6, 4).double().eval()
    x = torch.randn(1, 6, 2, 3, dtype=torch.float64)
    assert torch.equal(block(x), x)
    for tensor in (block.bn.weight.data, block.bn.bias.data, block.bn.running_mean):
        tensor.normal_()
    q, k, v = block.query_key_value(x).flatten(2)[0].split(4)
    rows = []
    for n in range(6):
        scores = [math.exp((q[:, n] @ k[:, m]).item() / 2) for m in range(6)]  # sqrt(d) = 2
        rows.append(sum(s * v[:, m] for m, s in enumerate(scores)) / sum(scores))
    attended = torch.stack(rows, dim=1).view(1, 4, 2, 3)
    torch.testing.assert_close(block(x), x + block.bn(block.out(attended)))


def test_pyramid_branches_pool_the_stated_parts():
    network = head("pspnet").eval()
    x = torch.zeros(1, 10, 6, 6)
    x[..., :3, :3] = 1.0
    assert [tuple(branch[0](x).shape[-2:]) for branch in network.branches] == [(1, 1), (2, 2), (3, 3), (6, 6)]
    torch.testing.assert_close(network.branches[1][0](x)[0, 0], torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
