"""Pages of EM's responsibilities, called attention here, by iteration, in some validation images.

Shapes: K shown components, S shown iterations, N positions, h and w of a feature map.
"""

from pathlib import Path

import pytorch_lightning as pl
import torch

from hemnet.callbacks.em_probe import Fit, fits, spread_samples
from hemnet.data import Item, denormalize
from hemnet.figures.attention import Attention, attention_page
from hemnet.training.task import SegmentationTask

# Up to this number of iterations, all are shown.
MOST_ITERATIONS = 6


class AttentionMaps(pl.Callback):
    """Draws the responsibilities of the most occupied components, and passes the figure to the loggers.

    Rank 0 writes the figure at the end of training. It shows, by image, the components that hold the most
    positions under the final means mu^(T), the largest first, where T is the T of evaluation. With more than
    6 iterations it shows the maps under mu^(t) for t = 0, 1, 2, 4, 8, ... and T. A network without EM layers
    has no figure. With several EM layers, each after the first has its own file, whose name contains the
    layer's module path.

    Args:
        path: the PNG file to write.
        images: number of validation images, >= 1, spread over the split.
        components: number of components of each image, >= 1.
        every_n_validations: write the figure at every n-th validation too; null writes it only at the end.
        show_images: whether to show the images beside the maps.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(
        self,
        path: str | Path,
        images: int = 3,
        components: int = 4,
        every_n_validations: int | None = None,
        show_images: bool = True,
    ) -> None:
        numbers = {"images": images, "components": components, "every_n_validations": every_n_validations}
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: give 1 or more")
        self.path = Path(path)
        self.images = images
        self.components = components
        self.every_n_validations = every_n_validations
        self.show_images = show_images
        self._validations = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the figure if it is due."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self.every_n_validations:
            self._validations += 1
            if self._validations % self.every_n_validations == 0:
                self._write(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the figure."""
        self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationTask)
        if not trainer.is_global_zero:
            return
        pages: dict[str, tuple[list[Attention], list[int]]] = {}
        for item in spread_samples(trainer, self.images):
            for prefix, fit in fits(trainer, pl_module, item).items():
                assert fit.result.trajectory is not None
                iterations = shown_iterations(len(fit.result.trajectory) - 1)
                pages.setdefault(prefix, ([], iterations))[0].append(
                    attention(item, fit, self.components, iterations)
                )
        for prefix, (rows, iterations) in pages.items():
            layer = prefix.rstrip("/")
            path = self.path.with_stem(f"{self.path.stem}-{layer}") if layer else self.path
            attention_page(rows, iterations, path, show_images=self.show_images)
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image(key=f"em/{prefix}attention", images=[str(path)])


def shown_iterations(last: int) -> list[int]:
    """Return which iterations of 0..last are shown: up to 6 all, otherwise 0, the powers of two, and last."""
    if last <= MOST_ITERATIONS:
        return list(range(last + 1))
    return [0, *(1 << i for i in range((last - 1).bit_length())), last]


def attention(item: Item, fit: Fit, components: int, iterations: list[int]) -> Attention:
    """Return the maps of the components that hold the most positions under the final means."""
    final_NK = fit.result.responsibilities(-1)[0]
    shares = final_NK.mean(dim=0)
    chosen = shares.argsort(descending=True)[:components]
    maps_SNK = torch.stack([fit.result.responsibilities(t)[0][:, chosen] for t in iterations])
    maps_KShw = maps_SNK.permute(2, 0, 1).unflatten(2, fit.size).float().cpu().numpy()
    image = denormalize(item["image"])
    return Attention(item["name"], image, chosen.tolist(), shares[chosen].tolist(), maps_KShw)
