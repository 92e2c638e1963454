"""Cropping, resampling and normalising: diffusers' functions on Pillow, for pictures that both sides make by a formula.

    python generate.py

Writes cases.safetensors: small outputs whole, large ones as a CRC-32. Needs diffusers==0.33.1, transformers==4.51.3,
"pillow<13" (13 resamples in another order).
"""

import random
import zlib
from pathlib import Path

import diffusers
import numpy as np
import PIL
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.i2vgen_xl.pipeline_i2vgen_xl import _center_crop_wide, _resize_bilinear
from PIL import Image
from safetensors.numpy import save_file
from transformers import CLIPImageProcessor

assert diffusers.__version__ == "0.33.1", diffusers.__version__
assert int(PIL.__version__.split(".")[0]) < 13, PIL.__version__
HERE = Path(__file__).resolve().parent
random.seed(8)
# Input and target sizes: reductions, enlargements, one pixel, one line, the black border, an unchanged axis, no change.
CROPS = [
    ((1, 1), (16, 8)), ((300, 1), (16, 8)), ((1, 300), (16, 8)), ((64, 64), (64, 64)), ((64, 40), (64, 64)), ((50, 40), (40, 40)),
    ((37, 53), (24, 16)), ((1, 1), (1, 1)), ((2, 3), (1, 1)), ((16, 8), (1, 1)), ((40, 40), (39, 41)), ((7, 5), (30, 20)),
    *(((random.randint(1, 90), random.randint(1, 90)), (random.randint(1, 40), random.randint(1, 40))) for _ in range(24)),
]
LARGE = [
    ((1024, 1024), (1280, 704)), ((1920, 1080), (1280, 704)), ((640, 480), (1280, 704)), ((1280, 704), (1280, 1280)),
    ((3840, 2160), (1280, 1280)), ((31, 17), (1280, 704)), ((720, 1280), (1280, 704)),
]
BILINEAR = [((40, 40), 24), ((64, 64), 32), ((24, 24), 32), ((32, 32), 32), ((1, 1), 8), ((1280, 1280), 224), ((512, 512), 224)]


def picture(width, height):
    n = np.arange(width * height * 3, dtype=np.uint64)
    mixed = (n * 2654435761 + 12345) % (1 << 32)
    return Image.fromarray((mixed >> 13 & 255).astype(np.uint8).reshape(height, width, 3))


def crc(image):
    return zlib.crc32(image.tobytes())


def main():
    tensors, crcs = {}, []
    for (w, h), target in CROPS:
        name = f"crop {w}x{h} to {target[0]}x{target[1]}"
        tensors[name] = np.asarray(_center_crop_wide([picture(w, h)], target)[0])
    for (w, h), target in LARGE:
        crcs.append([w, h, *target, crc(_center_crop_wide([picture(w, h)], target)[0])])
    tensors["crop crc"] = np.array(crcs, dtype=np.int64)
    crcs = []
    for (w, h), side in BILINEAR:
        crcs.append([w, h, side, crc(_resize_bilinear([picture(w, h)], (side, side))[0])])
    tensors["bilinear crc"] = np.array(crcs, dtype=np.int64)

    # The two branches of the pipeline, as numbers.
    image = picture(50, 41)
    (width, height), side = (40, 24), 16
    processor = CLIPImageProcessor(crop_size={"height": side, "width": side})
    square = _resize_bilinear(_center_crop_wide([image], (width, width)), (side, side))
    pixels = VaeImageProcessor.numpy_to_pt(VaeImageProcessor.pil_to_numpy(square))
    pixels = processor(images=pixels, do_normalize=True, do_center_crop=False, do_resize=False, do_rescale=False,
                       return_tensors="pt").pixel_values
    tensors["clip 50x41 to 40, 16"] = pixels.numpy()
    vae = VaeImageProcessor(vae_scale_factor=8, do_resize=False)
    tensors["vae 50x41 to 40x24"] = vae.preprocess(_center_crop_wide([image], (width, height))).numpy()
    # safetensors.numpy writes the memory as it lies.
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, HERE / "cases.safetensors")


main()
