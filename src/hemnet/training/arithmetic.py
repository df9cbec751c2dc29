"""How the device computes, as far as a run may choose: TF32 in float32 products, determinism."""

import logging
from typing import Literal

import torch
from torch import nn

log = logging.getLogger(__name__)

Float32 = Literal["highest", "high", "medium"]


def use_float32(precision: Float32) -> None:
    """Set what becomes of float32 products and convolutions on CUDA, in this process, and log it.

    Args:
        precision: "highest" is float32; "high" takes TF32, with a mantissa of 10 bits, on its tensor cores;
            "medium" may take bfloat16, of 7 bits, for products. torch's default is TF32 for
            convolutions only.
    """
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"
    if torch.cuda.is_available():
        what = "float32, without TF32" if precision == "highest" else "TF32 or less"
        log.info("float32 products and convolutions are of %s (task.float32_precision=%s)", what, precision)


def not_deterministic(network: nn.Module) -> list[str]:
    """Return the names of the modules whose gradient torch cannot compute deterministically on CUDA.

    Source: the documentation of `torch.use_deterministic_algorithms`. Interpolation has a deterministic form,
    and pooling to one value is a mean.
    """
    kinds = (
        nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.FractionalMaxPool2d, nn.MaxUnpool2d,
        nn.ReflectionPad2d, nn.AdaptiveAvgPool3d, nn.AvgPool3d,
    )  # fmt: skip
    return [
        name for name, module in network.named_modules()
        if isinstance(module, kinds)
        and not (isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)))
    ]  # fmt: skip
