"""Decoding and preparing pictures in Pillow, torchvision and transformers: milliseconds per picture, one thread.

In:  folders of JPEG files. Out: a line per folder; `cargo bench -p conjoin-input --bench prepare -- FOLDER...`
prints ours. `draft` is Pillow's decoding at reduced scale, which changes the pixels; `libjpeg-turbo` is
torchvision's decoder (or `simplejpeg`'s, where it is installed). Every stage runs over all pictures of a folder in
turn; the best of several rounds is told, as a busy machine only adds. Needs `pillow`, `torch`, `torchvision`, `transformers`.
"""

import io
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2
from transformers import CLIPImageProcessor

SIZE, ROUNDS, MOST = 224, 5, 200
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def shortest(width, height):
    short = min(width, height)
    return SIZE * width // short, SIZE * height // short


def pillow_resize(picture):
    size = shortest(*picture.size)
    left, top = (size[0] - SIZE) // 2, (size[1] - SIZE) // 2
    return picture.resize(size, Image.BICUBIC).crop((left, top, left + SIZE, top + SIZE))


def drafted(file):
    picture = Image.open(io.BytesIO(file))
    # Two times the target at least, so that the resampling that follows decides the result.
    picture.draft("RGB", tuple(2 * side for side in shortest(*picture.size)))
    return picture.convert("RGB")


def turbo(file):
    return torchvision.io.decode_jpeg(file, torchvision.io.ImageReadMode.RGB)


def per_item(work, items):
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for item in items:
            work(item)
        rounds.append((time.perf_counter() - start) * 1e3 / len(items))
    return min(rounds)


def main():
    torch.set_num_threads(1)
    stages = ["decode", "draft", "turbo", "resize", "tv resize", "normalise", "processor"]
    print(f"{'pictures':<24} {'count':>6} " + " ".join(f"{s:>9}" for s in stages))
    processor = CLIPImageProcessor()
    tv_resize = v2.Compose([v2.Resize(SIZE, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(SIZE)])
    for folder in sys.argv[1:]:
        files = [path.read_bytes() for path in sorted(Path(folder).iterdir())[:MOST]]
        tensors = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        decoded = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        bytes_chw = [turbo(file) for file in tensors]
        prepared = [np.asarray(pillow_resize(picture)) for picture in decoded]
        times = [
            per_item(lambda file: Image.open(io.BytesIO(file)).convert("RGB"), files),
            per_item(drafted, files),
            per_item(turbo, tensors),
            per_item(pillow_resize, decoded),
            per_item(tv_resize, bytes_chw),
            per_item(lambda x: (x.astype(np.float32) / 255 - MEAN) / STD, prepared),
            per_item(lambda picture: processor(picture, return_tensors="np"), decoded),
        ]
        print(f"{folder:<24} {len(files):>6} " + " ".join(f"{t:>9.3f}" for t in times))


if __name__ == "__main__":
    main()
