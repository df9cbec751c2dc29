"""Steps of whole networks on fake CUDA tensors: nothing is made on the CPU, the host waits where it must."""

import pytest
import torch
from _helpers.fake_cuda import DeviceWork, Launch, autocast, backward, fake_cuda, to_fake_cuda

from hemnet.config.build import build_data, build_network, build_task
from hemnet.config.compose import load
from hemnet.em import HighwayEM
from hemnet.training.inference import PLAIN, Inference
from hemnet.training.task import SegmentationTask

SMALL = ["data=synthetic", "model/backbone=resnet18", "model.backbone.width=4", "model.head.channels=16"]
HEADS = ("hem", "em", "emanet", "fcn", "nonlocal", "pspnet", "deeplabv3plus")
# Where a validation step waits for the device: pixels to count are chosen and their labels checked, and
# images whose output is not finite are named.
READS = {"training/metrics.py confusion", "training/task.py validation_step"}
SCALES, WINDOWS = Inference(scales=(0.5, 1.0), flip=True), Inference(window=(48, 48), stride=(16, 16))


def made(head: str, *changes: str) -> SegmentationTask:
    config = load([*SMALL, f"model/head={head}", *changes])
    spec = build_data(config).spec
    return build_task(config, build_network(config, spec.num_classes, pretrained=False), spec)


def on_gpu(task: SegmentationTask) -> dict:
    """Put a task on the GPU that is not there, and return a batch there."""
    to_fake_cuda(task)
    for metric in (task.confusion, task.mean_loss):
        for name, state in metric._defaults.items():
            setattr(metric, name, torch.zeros(state.shape, dtype=state.dtype, device="cuda"))
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    return {
        "image": torch.empty(2, 3, 64, 64, device="cuda"),
        "mask": torch.empty(2, 64, 64, dtype=torch.uint8, device="cuda"),
        "inside": torch.empty(2, 64, 64, dtype=torch.bool, device="cuda"),
        "name": ["a", "b"],
    }


def train(head: str, *changes: str) -> tuple[DeviceWork, list[Launch]]:
    """Two whole training steps."""
    task = made(head, *changes)
    with fake_cuda() as launches:
        batch = on_gpu(task)
        optimizer, schedule = task.optimization.build(task.network, 10)
        with DeviceWork() as work:
            for step in range(2):
                with autocast():
                    loss = task.training_step(batch, step)
                backward(loss, torch.ones_like(loss))
                optimizer.step()
                schedule.step()
                trained = [p for p in task.network.parameters() if p.requires_grad]
                assert all(p.grad is not None for p in trained)
                optimizer.zero_grad()
    return work, launches


@pytest.mark.parametrize("head", HEADS)
def test_a_training_step_stays_on_the_device(head):
    work, launches = train(head, "model/auxiliary=fcn")
    assert not work.born
    assert not work.reads
    assert ("gather" in {launch.name for launch in launches}) == (head in ("hem", "em", "emanet"))


@pytest.mark.parametrize(
    "change", ["model.head.gradient=one_step", "model.head.learn_scale=shared", "model.head.means=learned"]
)
def test_so_does_one_with_other_settings_of_the_layer(change):
    work, _ = train("hem", change)
    assert not work.born
    assert not work.reads


@pytest.mark.parametrize(
    ("head", "inference"), [*((head, PLAIN) for head in HEADS), ("hem", SCALES), ("hem", WINDOWS)]
)
def test_a_validation_step_waits_where_it_must(head, inference):
    task = made(head)
    task.inference = inference
    with fake_cuda() as launches:
        batch = on_gpu(task)
        task.network.eval()
        with DeviceWork() as work, torch.no_grad(), autocast():
            task.validation_step(batch, 0)
    assert not work.born
    assert set(work.reads) <= READS
    assert bool(launches) == any(isinstance(module, HighwayEM) for module in task.modules())


def test_what_is_made_on_the_cpu_or_read_is_seen():
    with fake_cuda(), DeviceWork() as work:
        x = torch.ones(3, device="cuda")
        assert float(x.sum()) == 1
        torch.zeros(2)
    assert work.reads.total() == work.born.total() == 1
