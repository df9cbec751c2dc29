import pickle
import re
import traceback
from types import TracebackType

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from _helpers.mosaic import mosaic_data
from _helpers.waiting import CEILING
from hypothesis import given
from hypothesis import strategies as st
from torch import multiprocessing

from hemnet.data import module, samplers
from hemnet.data.module import SampleDataset, SegmentationData, collate
from hemnet.data.readers import Sample
from hemnet.data.samplers import EpochSampler, ShardSampler
from hemnet.data.sets.camvid import CamVid
from hemnet.data.sets.synthetic import Mosaic
from hemnet.data.spec import DataError
from hemnet.data.transforms import EvalTransform, TrainTransform


def on_rank(monkeypatch, rank: int, world: int) -> None:
    for each in (module, samplers):
        monkeypatch.setattr(each, "rank_and_world", lambda: (rank, world))


# -- batches -----------------------------------------------------------------------------------------------


def test_batches_have_the_promised_form():
    data = mosaic_data()
    batches = list(data.train_dataloader())
    assert len(batches) == 10 // 4
    for batch in batches:
        assert batch["image"].shape == (4, 3, 12, 12)
        assert batch["mask"].shape == (4, 12, 12)
        assert (batch["image"].dtype, batch["mask"].dtype) == (torch.float32, torch.uint8)
        assert all(re.fullmatch(r"train-\d{5}", name) for name in batch["name"])
    names = [name for batch in data.val_dataloader() for name in batch["name"]]
    assert names == [f"val-{i:05d}" for i in range(10)]
    assert data.val_dataset[3]["name"] == "val-00003"
    assert data.spec.name == "mosaic"


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_and_epochs_do(workers):
    alone, together = mosaic_data().train_dataloader(), mosaic_data(workers).train_dataloader()
    seen = {}
    for epoch in (0, 1, 0):
        for loader in (alone, together):
            loader.sampler.set_epoch(epoch)
        for one, other in zip(alone, together, strict=True):
            assert one["name"] == other["name"]
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["mask"], other["mask"])
            for name, image in zip(one["name"], one["image"], strict=True):
                # Seen again in epoch 0 it is the same, in another epoch it is not.
                assert torch.equal(seen.setdefault((epoch, name), image), image)
                assert not torch.equal(seen.get((1 - epoch, name), image + 1), image)


def test_each_sample_has_a_stream_of_its_own():
    one = Mosaic("train", 1, size=16, cells=4).read(0)

    class Same(Mosaic):
        def read(self, index: int) -> Sample:
            return one

    dataset = SampleDataset(Same("train", 20), TrainTransform(12), seed=0)
    images = {dataset[(epoch, index)]["image"].numpy().tobytes() for epoch in range(3) for index in range(20)}
    assert len(images) == 60
    other_seed = SampleDataset(Same("train", 20), TrainTransform(12), seed=1)
    assert other_seed[(0, 0)]["image"].numpy().tobytes() not in images


class Recorder(pl.LightningModule):
    """Keeps what Lightning hands to the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[dict[str, torch.Tensor]] = [{} for _ in range(3)]
        self.validated: list[list[str]] = [[] for _ in range(3)]

    def training_step(self, batch, batch_index):
        self.trained[self.current_epoch].update(zip(batch["name"], batch["image"], strict=True))
        return self.weight

    def validation_step(self, batch, batch_index):
        self.validated[self.current_epoch] += batch["name"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0)


def quiet_trainer(**options) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **options,
    )


def test_lightning_moves_the_epoch_through_persistent_workers():
    recorder, data = Recorder(), mosaic_data(workers=2, batch_size=5)
    quiet_trainer(max_epochs=3).fit(recorder, data)
    names = [f"train-{i:05d}" for i in range(10)]
    orders = [list(trained) for trained in recorder.trained]
    assert all(sorted(order) == names for order in orders)
    assert orders[0] != orders[1] != orders[2]
    for epoch in range(3):
        assert recorder.validated[epoch] == [f"val-{i:05d}" for i in range(10)]
        for index, name in enumerate(names):
            assert torch.equal(recorder.trained[epoch][name], data.train_dataset[(epoch, index)]["image"])


def test_the_dataset_survives_pickling():
    dataset = mosaic_data().train_dataset
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[(2, 1)]["image"], dataset[(2, 1)]["image"])


# -- samplers ----------------------------------------------------------------------------------------------


@given(
    length=st.integers(1, 60),
    world=st.integers(1, 5),
    batch=st.integers(1, 4),
    epoch=st.integers(0, 9),
    seed=st.integers(0, 2**40),
)
def test_ranks_together_see_the_batches_of_one_process(length, world, batch, epoch, seed):
    def order(rank: int, size: int) -> list[tuple[int, int]]:
        with pytest.MonkeyPatch.context() as patch:
            on_rank(patch, rank, size)
            sampler = EpochSampler(length, seed)
            sampler.set_epoch(epoch)
            pairs = list(sampler)
            assert len(sampler) == len(pairs)
            return pairs

    single = order(0, 1)
    assert sorted(single) == [(epoch, i) for i in range(length)]
    ranks = [order(rank, world) for rank in range(world)]
    assert {len(pairs) for pairs in ranks} == {length // world}
    for i in range(length // (world * batch)):
        joint = [pair for pairs in ranks for pair in pairs[i * batch : (i + 1) * batch]]
        assert sorted(joint) == sorted(single[i * batch * world : (i + 1) * batch * world])


def test_the_order_depends_on_seed_and_epoch():
    orders = set()
    for seed in range(3):
        sampler = EpochSampler(20, seed)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            orders.add(tuple(index for _, index in sampler))
    assert len(orders) == 9


@given(length=st.integers(0, 40), world=st.integers(1, 6))
def test_evaluation_sees_each_sample_exactly_once(length, world):
    seen = []
    for rank in range(world):
        with pytest.MonkeyPatch.context() as patch:
            on_rank(patch, rank, world)
            sampler = ShardSampler(length)
            assert len(sampler) == len(list(sampler))
            seen += list(sampler)
    assert sorted(seen) == list(range(length))


def test_the_rank_is_read_when_iterating(monkeypatch):
    loader = mosaic_data(batch_size=2).train_dataloader()
    alone = [name for batch in loader for name in batch["name"]]
    on_rank(monkeypatch, 1, 2)
    assert len(loader) == 2
    assert [name for batch in loader for name in batch["name"]] == alone[1::2][:4]


def _names_on_rank(rank: int, world: int, store: str, results) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    data = mosaic_data(batch_size=2, length=11)
    train, val = data.train_dataloader(), data.val_dataloader()
    train.sampler.set_epoch(1)
    results.put((rank, [b["name"] for b in train], [n for b in val for n in b["name"]]))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_real_processes_make_the_batches_of_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    spawned = multiprocessing.spawn(
        _names_on_rank, args=(2, str(tmp_path / "store"), results), nprocs=2, join=False
    )
    (_, train_0, val_0), (_, train_1, val_1) = sorted(results.get(timeout=CEILING) for _ in range(2))
    while not spawned.join():
        pass
    loader = mosaic_data(batch_size=4, length=11).train_dataloader()
    loader.sampler.set_epoch(1)
    joint = [sorted(a + b) for a, b in zip(train_0, train_1, strict=True)]
    assert joint == [sorted(batch["name"]) for batch in loader]
    assert sorted(val_0 + val_1) == [f"val-{i:05d}" for i in range(11)]


# -- errors ------------------------------------------------------------------------------------------------


def test_a_training_set_smaller_than_a_batch(monkeypatch):
    with pytest.raises(
        DataError, match=r"10 training samples per process.*batch of 11: set data.batch_size=10,"
    ):
        mosaic_data(batch_size=11)
    data = mosaic_data(batch_size=6)
    on_rank(monkeypatch, 0, 2)
    with pytest.raises(DataError, match=r"5 training samples per process.*set data.batch_size=5,"):
        data.train_dataloader()


def test_fewer_evaluation_samples_than_processes(monkeypatch):
    few, enough = (mosaic_data(length=length, batch_size=1) for length in (2, 3))
    on_rank(monkeypatch, 2, 3)
    assert list(enough.val_dataloader().sampler) == [2]
    with pytest.raises(DataError, match=r"2 evaluation samples for 3 processes.*trainer\.devices"):
        few.val_dataloader()


def test_different_classes_in_train_and_val():
    train, val = Mosaic("train", 4, num_classes=3), Mosaic("val", 4, num_classes=4)
    with pytest.raises(DataError, match=r"training has the 3 classes of mosaic .* data the 4 of mosaic"):
        SegmentationData(train, val, TrainTransform(8), EvalTransform(), 2)


@pytest.mark.parametrize("option", ["batch_size", "eval_batch_size", "num_workers", "seed"])
def test_numbers_out_of_range(option):
    train, val = Mosaic("train", 4), Mosaic("val", 4)
    options = {"batch_size": 2} | {option: -1}
    with pytest.raises(ValueError, match=f"{option}=-1"):
        SegmentationData(train, val, TrainTransform(8), EvalTransform(), **options)


def test_evaluation_images_of_different_sizes_name_the_remedy():
    items = [
        EvalTransform()(
            Sample(np.zeros((8, width, 3), np.uint8), np.zeros((8, width), np.uint8), f"w{width}")
        )
        for width in (8, 9)
    ]
    with pytest.raises(DataError, match=r"w8 \(8, 8\)/\(8, 8\), w9 \(8, 9\)/\(8, 9\); set eval_batch_size=1"):
        collate(items)
    # Images resized to one size still have masks of different sizes.
    items = [item | {"image": torch.zeros(3, 4, 4)} for item in items]
    with pytest.raises(DataError, match="set eval_batch_size=1"):
        collate(items)


def stop_workers(trace: TracebackType) -> None:
    """Drop the loader that the frames hold; left to the garbage collector, its end may take five seconds."""
    traceback.clear_frames(trace)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_names_the_file(camvid_root, workers):
    data = SegmentationData(
        CamVid(camvid_root, "train"),
        CamVid(camvid_root, "val"),
        TrainTransform(8),
        EvalTransform(),
        batch_size=2,
        num_workers=workers,
    )
    broken = camvid_root / "valannot/val_1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(DataError, match=re.escape(f"{broken}: not a readable image")) as caught:
        list(data.val_dataloader())
    stop_workers(caught.tb)


@pytest.mark.parametrize("workers", [0, 1])
def test_any_other_error_says_which_sample(workers):
    def fail(sample, rng):
        raise KeyError("surprise")

    train, val = Mosaic("train", 4), Mosaic("val", 4)
    data = SegmentationData(train, val, TrainTransform(8), fail, 2, num_workers=workers)
    with pytest.raises(KeyError) as caught:
        list(data.val_dataloader())
    stop_workers(caught.tb)
    # Across processes the note is part of the traceback that becomes the message.
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "while preparing sample 0 of mosaic" in told


@pytest.mark.parametrize("key", [-1, 10, (0, 10), (3, -1)])
def test_keys_out_of_range(key):
    with pytest.raises(IndexError, match="out of range for 10 mosaic samples"):
        mosaic_data().train_dataset[key]
