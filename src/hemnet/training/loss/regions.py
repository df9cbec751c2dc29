"""Losses that compare regions, as the score does: soft Dice and Lovász-softmax.

Both are means over the classes that occur in the truth of the batch of all ranks. Absent classes count
nothing here; use a cross-entropy beside them to penalise predicting these.

Shapes: B images, K classes, H and W pixels, P pixels in a row.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from hemnet.processes.ranks import all_ranks
from hemnet.training.loss.base import Loss, PixelSum, Sums


def _probabilities(logits_BKHW: Tensor) -> Tensor:
    return logits_BKHW.to(torch.promote_types(logits_BKHW.dtype, torch.float32)).softmax(1)


def _over_present(value_K: Tensor, pixels_K: Tensor) -> Tensor:
    """Return the mean of a value over the classes with pixels; 0 if there are none."""
    present_K = pixels_K > 0
    return torch.where(present_K, value_K, 0).sum() / present_K.sum().clamp(min=1)


class Dice(Loss):
    """Soft Dice loss: the mean over classes of 1 - 2 Σ p·t / (Σ p + Σ t), over all valid pixels at once.

    p is the probability of the class, t is 1 where it is the true one, else 0. The sums are over the pixels
    of the whole batch, of all ranks, not of each image. Source: Milletari et al. (3DV 2016), with the
    denominator that is usual since, without squares.
    """

    def sums(self, logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int) -> Sums:
        """Return Σ p·t, Σ p and Σ t, (K,) each."""
        valid_B1HW = (target_BHW != ignore_index)[:, None]
        p_BKHW = torch.where(valid_B1HW, _probabilities(logits_BKHW), 0)
        classes_K11 = torch.arange(p_BKHW.shape[1], device=p_BKHW.device)[:, None, None]
        true_BKHW = target_BHW[:, None] == classes_K11
        over = (0, 2, 3)
        return torch.where(true_BKHW, p_BKHW, 0).sum(over), p_BKHW.sum(over), true_BKHW.sum(over)

    def value(self, *sums: Tensor) -> Tensor:
        """Return the loss from those sums, in [0, 1]."""
        both_K, p_K, true_K = sums
        # A class that occurs has pixels, so its denominator is above 0.
        return _over_present(1 - 2 * both_K / torch.where(true_K > 0, p_K + true_K, 1), true_K)


class Lovasz(Loss):
    """Lovász-softmax: a convex extension of 1 - IoU, the mean over classes.

    With the errors e of a class (1 - p where it is the true one, else p) sorted from the greatest on, it is
    Σ_i e_i (J_i - J_{i-1}), J_i being 1 - IoU if the first i pixels alone were wrong. Source: Berman, Triki
    and Blaschko (CVPR 2018).

    The errors of all ranks are sorted together, which takes one all-gather per class, of a number per
    pixel. Where errors tie, any order gives the same loss, and one of its subgradients.

    Args:
        per_image: sort within each image instead, and take the mean over the images with a valid pixel.

    Example:
        >>> logits_BKHW = torch.tensor([9.0, -9.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
        >>> float(Lovasz()(logits_BKHW, torch.tensor([[[0, 1]]])).round(decimals=3))  # 1 - the mean IoU
        0.75
    """

    def __init__(self, factor: float = 1.0, per_image: bool = False) -> None:
        super().__init__(factor)
        self.per_image = per_image

    def sums(self, logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int) -> Sums:
        """Return this rank's terms and its pixels, (K,) each; or the sum over images and their number."""
        p_BKP = _probabilities(logits_BKHW).flatten(2)
        target_BP = target_BHW.flatten(1)
        if not self.per_image:
            return _lovasz(p_BKP.transpose(0, 1).flatten(1), target_BP.flatten(), ignore_index, together=True)
        images = [
            _over_present(*_lovasz(p_KP, target_P, ignore_index, together=False))
            for p_KP, target_P in zip(p_BKP, target_BP, strict=True)
        ]
        return torch.stack(images).sum(), (target_BP != ignore_index).any(1).sum()

    def value(self, *sums: Tensor) -> Tensor:
        """Return the loss from those sums, in [0, 1]."""
        return PixelSum(*sums).mean() if self.per_image else _over_present(*sums)


def _lovasz(p_KP: Tensor, target_P: Tensor, ignore_index: int, together: bool) -> tuple[Tensor, Tensor]:
    """Return Σ e·(J_i - J_{i-1}) over these pixels, and their number, (K,) each.

    Args:
        p_KP: (K, P) probabilities.
        target_P: (P,) classes or ``ignore_index``.
        ignore_index: the label of pixels that do not count.
        together: whether to sort with the pixels of the other ranks.
    """
    valid_P = target_P != ignore_index
    p_KP, target_P = p_KP[:, valid_P], target_P[valid_P]
    lengths = all_ranks(len(target_P)) if together else [len(target_P)]
    terms, pixels = [], []
    for k, p_P in enumerate(p_KP):
        true_P = target_P == k
        error_P = torch.where(true_P, 1 - p_P, p_P)
        terms.append((error_P * _among_ranks(error_P.detach(), true_P, lengths)).sum())
        pixels.append(true_P.sum())
    return torch.stack(terms), torch.stack(pixels)


def _among_ranks(error_P: Tensor, true_P: Tensor, lengths: list[int]) -> Tensor:
    """Return `_jaccard_steps` of this rank's pixels among those of all ranks, ``lengths`` of them each."""
    if len(lengths) == 1:
        return _jaccard_steps(error_P, true_P)
    # The sign says which pixels are of the class, so that one exchange does; also of an error of 0.
    coded_P = error_P.new_zeros(max(lengths))
    coded_P[: len(error_P)] = torch.where(true_P, -error_P, error_P)
    everyone = [torch.empty_like(coded_P) for _ in lengths]
    dist.all_gather(everyone, coded_P)
    coded = torch.cat([part[:length] for part, length in zip(everyone, lengths, strict=True)])
    return _jaccard_steps(coded.abs(), coded.signbit()).split(lengths)[dist.get_rank()]


def _jaccard_steps(error_P: Tensor, true_P: Tensor) -> Tensor:
    """Return J_i - J_{i-1} of each pixel, i being its place in descending order of the errors.

    Of a pixel of the class it is 1/U, of another I/(U(U-1)), with I pixels of the class behind it and U
    pixels that are of the class or not behind it: J = 1 - I/U, and nearly equal numbers are not subtracted.
    """
    order_P = error_P.argsort(descending=True, stable=True)
    sorted_P = true_P[order_P]
    inside_P = sorted_P.sum() - sorted_P.cumsum(0)
    union_P = sorted_P.sum() + (~sorted_P).cumsum(0)
    union = union_P.to(error_P.dtype)
    steps_P = torch.where(sorted_P, 1 / union, inside_P / (union * (union - 1).clamp(min=1)))
    return torch.empty_like(steps_P).index_put_((order_P,), steps_P)
