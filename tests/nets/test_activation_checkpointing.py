"""Activation checkpointing: less memory, and not a bit of a difference."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hemnet.nets import EMHead, ResNet, Segmenter
from hemnet.nets.activation_checkpointing import recompute


def network(depth: int, checkpointing: bool) -> Segmenter:
    torch.manual_seed(0)
    backbone = ResNet(depth, width=8, activation_checkpointing=checkpointing)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # else every block begins as its shortcut
    return Segmenter(backbone, EMHead(backbone.channels, 5, channels=16, num_components=4, dropout=0.5))


def image(step: int) -> Tensor:
    return torch.randn(2, 3, 65, 49, generator=torch.Generator().manual_seed(step))


def step_through(net: Segmenter, forward: Callable[[Tensor], Tensor], *batches: int) -> dict[str, Any]:
    """Take a step of so many batches each; return all that they give."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    found: dict[str, Any] = {"outputs": [], "gradients": []}
    for step, count in enumerate(batches):
        optimizer.zero_grad()
        for batch in range(count):
            y = forward(image(10 * step + batch))
            y.square().mean().backward()
            found["outputs"].append(y.detach())
        found["gradients"].append({name: p.grad.clone() for name, p in net.named_parameters()})
        optimizer.step()
    return found | {"state": net.state_dict(), "random": torch.get_rng_state()}


def assert_identical(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("depth", [18, 50])
def test_nothing_but_memory_changes(depth: int) -> None:
    plain, other = network(depth, False), network(depth, True)
    expected = step_through(plain, lambda x: plain(x).logits, 1, 2, 1)
    assert_identical(step_through(other, lambda x: other(x).logits, 1, 2, 1), expected)
    counts = [v for name, v in expected["state"].items() if name.endswith("num_batches_tracked")]
    assert len(counts) > 20
    assert all(count == 4 for count in counts), "once for each of four batches"
    assert any(name.endswith("em.means") for name in expected["state"])


def test_a_head_that_is_checkpointed_too_counts_its_means_once() -> None:
    """The EM layer sees each image twice: the average is the same."""
    plain, other = network(18, False), network(18, True)
    for net in (plain, other):
        net.head.refine[1] = nn.Identity()  # the head's own batch norm would count twice, unlike the layer
        net.head.reduce[1] = nn.Identity()
        net.head.context.bn = nn.Identity()
    expected = step_through(plain, lambda x: plain(x).logits, 1, 1, 1)

    other.head.forward = partial(checkpoint, other.head.forward, use_reentrant=False)
    # Twice the sum over twice the number, both powers of two, are the same number to the bit.
    assert_identical(step_through(other, lambda x: other(x).logits, 1, 1, 1), expected)


def saved_bytes(forward: Callable[[], Any]) -> int:
    """What the backward pass is left with, each storage once."""
    storages = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = forward()
    assert kept is not None
    return sum(size for size, _ in storages.values())


@pytest.mark.parametrize(("depth", "least"), [(18, 1.5), (50, 3.0)])
def test_less_is_kept_for_the_backward_pass(depth: int, least: float) -> None:
    plain, other = (ResNet(depth, width=8, activation_checkpointing=wanted) for wanted in (False, True))
    more, less = (saved_bytes(lambda net=net: net(image(0))) for net in (plain, other))
    assert less < more / least


def test_outside_of_training_nothing_is_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = ResNet(18, width=4, activation_checkpointing=True)
    monkeypatch.setattr("hemnet.nets.activation_checkpointing.checkpoint", None)  # calling it would raise
    net.eval()(image(0))
    with torch.no_grad():
        net.train()(image(0))
    with pytest.raises(TypeError):
        net(image(0))


class Noisy(nn.Module):
    """A block that draws random numbers and normalises, and can be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(x)).square()


def test_random_numbers_and_statistics_are_those_of_the_first_run() -> None:
    plain = nn.Sequential(Noisy(), Noisy())
    other, found = copy.deepcopy(plain), []
    for stage, run in ((plain, plain), (other, partial(recompute, other))):
        torch.manual_seed(0)
        x = image(0).requires_grad_()
        run(x).sum().backward()
        found.append((x.grad, dict(stage.named_parameters()), dict(stage.named_buffers()), torch.rand(())))
    assert_identical(*found)


def test_a_second_backward_pass_recomputes_again() -> None:
    stage = nn.Sequential(Noisy(), Noisy())
    x = image(0).requires_grad_()
    y = recompute(stage, x).sum()
    first = torch.autograd.grad(y, x, retain_graph=True)
    assert_identical(torch.autograd.grad(y, x), first)
    assert stage[0].norm.num_batches_tracked == 1


@pytest.mark.slow
def test_within_a_compiled_network(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = network(18, True), network(18, True)
    torch.compiler.reset()
    other.compile()
    expected, found = (step_through(net, lambda x, net=net: net(x).logits, 1) for net in (plain, other))
    # Float32 sums in another order, through some twenty layers.
    torch.testing.assert_close(found["outputs"], expected["outputs"], rtol=1e-4, atol=1e-4)
    counts = [v for name, v in found["state"].items() if name.endswith("num_batches_tracked")]
    assert all(count == 1 for count in counts)
