"""Overrides for runs on the miniature CamVid that take seconds."""

TINY = [
    "data=camvid", "model/backbone=resnet18", "model.backbone.width=4", "model.head.channels=8",
    "model.num_components=4", "trainer.check_val_every_n_epoch=1",
    "data.train_transform.crop_size=[32,32]", "data.batch_size=2", "data.num_workers=0", "logger=csv",
    "trainer.max_epochs=2", "trainer.precision=32",
]  # fmt: skip
# Nor the pages that take a second to draw.
PLAIN = [*TINY, "callbacks.predictions=null", "callbacks.attention=null"]
