"""Reference features and classes of MobileNet v1 0.75 for real pictures, at 224 and 128 px.

In:  `assets/mobilenet/model.safetensors` of this repository (F16 tensors widened to F32); the folder of the
     Grocery Store data (`iconic-images-and-descriptions`; MIT) for the pictures; optionally the original
     F32 weights, to measure what F16 costs.
Out: `NAME.SIZE.png` (u8 RGB, what the network sees, resized by Pillow's bicubic), `golden.safetensors`:
     `features.NAME.SIZE` F32 `[768]`, `top5.NAME.SIZE` I64 `[5]`, `logits.NAME.SIZE` F32 `[5]` (of those
     classes), `expected.NAME` I64 `[1]` (ImageNet class of the picture); `golden.json` with versions and figures.
     Pixels enter as x / 127.5 - 1.

Run: python testdata/parity/mobilenet/make.py PATH_TO/grocery [--original PATH_TO/mobilenet_v1_0.75_224] [--out DIR]
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import PIL
import safetensors
import torch
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import load_file

import reference

HERE = Path(__file__).resolve().parent
ASSET = HERE.parents[2] / "assets/mobilenet/model.safetensors"
SIZES = [224, 128]
# Name -> (picture, index of the class in ImageNet's list of 1000).
PICTURES = {
    "granny_smith": ("Fruit/Apple/Granny-Smith/Granny-Smith_Iconic.jpg", 948),
    "orange": ("Fruit/Orange/Orange_Iconic.jpg", 950),
    "lemon": ("Fruit/Lemon/Lemon_Iconic.jpg", 951),
    "pineapple": ("Fruit/Pineapple/Pineapple_Iconic.jpg", 953),
    "banana": ("Fruit/Banana/Banana_Iconic.jpg", 954),
    "pomegranate": ("Fruit/Pomegranate/Pomegranate_Iconic.jpg", 957),
    "cucumber": ("Vegetables/Cucumber/Cucumber_Iconic.jpg", 943),
    "bell_pepper": ("Vegetables/Pepper/Green-Bell-Pepper/Green-Bell-Pepper_Iconic.jpg", 945),
    "zucchini": ("Vegetables/Zucchini/Zucchini_Iconic.jpg", 939),
}
STORED = ["granny_smith", "orange", "lemon", "banana"]


def load(path):
    return {name: tensor.float() for name, tensor in load_file(path).items()}


def run(pixels, weights):
    """`[h, w, 3]` u8 -> (features `[768]`, logits `[1000]`)."""
    x = torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1.0
    with torch.no_grad():
        _, features, _ = reference.forward(x.permute(2, 0, 1)[None], weights)
        logits = features @ weights["conv_preds/kernel"][0, 0] + weights["conv_preds/bias"]
    return features[0].numpy(), logits[0].numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grocery", type=Path)
    parser.add_argument("--original", type=Path)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()

    weights = load(ASSET)
    original = load(args.original / "model.safetensors") if args.original else None
    golden, pictures, worst = {}, {}, 0.0
    for name, (path, expected) in PICTURES.items():
        picture = Image.open(args.grocery / "iconic-images-and-descriptions" / path).convert("RGB")
        ranks = {}
        for size in SIZES:
            resized = picture.resize((size, size), Image.Resampling.BICUBIC)
            features, logits = run(np.asarray(resized), weights)
            order = np.argsort(-logits, kind="stable")
            ranks[size] = int(np.flatnonzero(order == expected)[0]) + 1
            if original:
                worst = max(worst, float(np.abs(run(np.asarray(resized), original)[0] - features).max()))
            if name not in STORED:
                continue
            resized.save(args.out / f"{name}.{size}.png", optimize=True)
            golden[f"features.{name}.{size}"] = features
            golden[f"top5.{name}.{size}"] = order[:5].astype(np.int64)
            golden[f"logits.{name}.{size}"] = logits[order[:5]]
        pictures[name] = {"imagenet_class": expected, "rank_of_class_at_size": ranks}
        if name in STORED:
            golden[f"expected.{name}"] = np.array([expected], dtype=np.int64)
    save_file(golden, args.out / "golden.safetensors")
    about = {
        "weights": "assets/mobilenet/model.safetensors",
        "pixels": "x / 127.5 - 1",
        "max_feature_error_of_f16_asset": worst if original else None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pillow": PIL.__version__,
            "numpy": np.__version__,
            "safetensors": safetensors.__version__,
        },
        "pictures": pictures,
    }
    (args.out / "golden.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
