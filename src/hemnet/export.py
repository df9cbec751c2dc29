"""Write a trained network as one file that runs without hemnet.

The file maps normalised images (B, 3, H, W) float32 to logits (B, K, H, W) float32, for any batch and size,
and states as JSON what is needed to use it as hemnet predict does: classes, colours, normalisation, size of
images and inference options. An ONNX file also gives the scores at the head's resolution.

With --whole an ONNX file maps 8-bit images (B, H, W, 3) to classes (B, H, W) uint8 and their
probabilities: resizing and normalisation are in it too.

Shapes: B images, K classes, H and W pixels.
"""

import hemnet.lab

import argparse

from hemnet.config.command_line import add_checkpoint_arguments, log_to_terminal, run_entry
from hemnet.storage.places import absolute


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet export", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_checkpoint_arguments(parser)
    parser.add_argument("--format", choices=("onnx", "torch"), default="onnx",
                        help="onnx (needs the extra 'export'), or torch; default: onnx")  # fmt: skip
    parser.add_argument("--output", type=absolute, help="file; default: RUN/model_CHECKPOINT.{onnx,pt2}")
    parser.add_argument("--opset", type=int, help="operator set of ONNX; default: torch's")
    parser.add_argument("--whole", action="store_true",
                        help="with resizing, normalisation and the choice of the class")  # fmt: skip
    options = parser.parse_args()
    log_to_terminal()
    from hemnet.using.exporting import export  # here, as it takes seconds, which --help does without

    how = (options.format, options.checkpoint, options.output, options.opset)
    export(options.run, *how, whole=options.whole)


if __name__ == "__main__":
    run_entry(_entry)
