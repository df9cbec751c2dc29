"""Segment an image with an exported network and onnxruntime alone: run_onnx.py MODEL.onnx IMAGE MASK.png."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, source, target = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["hemnet"])
image = ImageOps.exif_transpose(Image.open(source)).convert("RGB")
normalized_HWC = (np.asarray(image) / 255 - about["mean"]) / about["std"]
batch_BCHW = normalized_HWC.transpose(2, 0, 1)[None].astype(np.float32)
(logits_BKHW,) = session.run(["logits"], {"image": batch_BCHW})
classes_HW = logits_BKHW[0].argmax(0).astype(np.uint8)
mask = Image.fromarray(classes_HW, mode="P")
mask.putpalette([channel for colour in about["palette"] for channel in colour])
mask.save(target)
print(*(about["classes"][k] for k in np.unique(classes_HW)), sep="\n")
