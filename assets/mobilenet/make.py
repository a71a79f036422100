"""Packs MobileNet v1 0.75 224 for the repository: 1x1 kernels as F16, everything else as F32.

In:  a folder with `model.safetensors` (F32, Keras names, HWIO kernels), by argument.
Out: `model.safetensors` beside this file, names unchanged; the size and the largest rounding on stderr.
Why: the 1x1 kernels are 95 % of the numbers and round well. Batch-norm variances go below what F16
     holds, and rounding the depthwise kernels as well triples the error of the features
     (`testdata/parity/mobilenet` measures it), for 80 kB.

Run: python assets/mobilenet/make.py PATH_TO/mobilenet_v1_0.75_224 [--out DIR]
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent


def pack(tensor):
    """F16 for 1x1 kernels, F32 for the rest."""
    pointwise = tensor.ndim == 4 and tensor.shape[:2] == (1, 1)
    return tensor.astype(np.float16 if pointwise else np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()

    source = load_file(args.source / "model.safetensors")
    packed = {name: pack(tensor) for name, tensor in sorted(source.items())}
    metadata = {"format": "keras", "layout": "HWIO kernels; depthwise HWC1"}
    save_file(packed, args.out / "model.safetensors", metadata=metadata)

    worst = max(
        float(np.abs(source[n] - packed[n].astype(np.float32)).max() / np.abs(source[n]).max())
        for n in packed
    )
    smallest = min(float(t.min()) for n, t in source.items() if n.endswith("moving_variance"))
    size = (args.out / "model.safetensors").stat().st_size
    print(
        f"{len(packed)} tensors, {sum(t.size for t in packed.values())} numbers, {size} bytes; largest "
        f"rounding {worst:.2e} of a tensor's largest value; smallest variance {smallest:.2e}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
