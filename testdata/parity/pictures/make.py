"""Makes the pictures that the parity cases of image towers share.

Out: wide.png, tall.png (odd sizes, not square), small.png (smaller than any model's input), grey.png (one channel),
     alpha.png (with transparency).

Run: python make.py (needs numpy, pillow)
"""

from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
KINDS = {"wide": (67, 41, "RGB"), "tall": (35, 58, "RGB"), "small": (19, 13, "RGB"), "grey": (37, 37, "L"),
         "alpha": (45, 39, "RGBA")}


def scene(width, height, channels, seed):
    """Soft waves with hard edges, a few levels each: every filter tap matters and the files stay small."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    planes = []
    for c in range(channels):
        wave = 127 + 100 * np.sin(x / (4 + c) + c + seed) * np.cos(y / (6 - c) + seed)
        edge = 255.0 * (((x // 5 + y // 7 + c + seed) % 3) == 0)
        planes.append(np.round((0.6 * wave + 0.4 * edge) / 16) * 16)
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)


def main():
    for seed, (name, (width, height, mode)) in enumerate(KINDS.items()):
        pixels = scene(width, height, len(mode), seed)
        Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode).save(HERE / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
