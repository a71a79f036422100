"""A tiny MobileNet with random weights: forward, every layer, and every gradient, from PyTorch in F64.

In:  nothing (seeded).
Out: a folder `mobilenet_tiny` with
     - `config.json`, `model.safetensors` (F32): the layout of Keras;
     - `golden.safetensors`:
       `pixels` U8 `[b, 32, 32, 3]` (HWC; value x enters as (x / 255 - mean) / std, see `make.json`);
       `hidden.L` F32: output of the stem, then of each block, of input 0 alone: `[h, w, c]` HWC;
       `pooled.0` F32 `[d]`: input 0 pooled, before projection and normalisation;
       `embeddings` F32 `[b, e]` of unit length; `upstream` F32 `[b, e]`: dL/dE, L = sum(E * upstream);
       `grad.NAME` F32: dL/dNAME for every trainable tensor of `model.safetensors`.
     - `make.json`: versions and what a reader must know.
How: every input runs alone; computed in F64 from the stored F32 weights, rounded to F32 once. Batch-norm
     statistics are random. No value that enters a relu6 lies within 1e-5 of a kink.

Run: python testdata/parity/towers/make.py [--out DIR]
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "mobilenet"))
import reference

PROJECTION = 24
VERSIONS = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "safetensors": safetensors.__version__,
}


def normalise(x):
    return torch.nn.functional.normalize(x, dim=-1)


def finish(out, golden, parameters, embeddings, upstream, notes):
    """Adds gradients to `golden` and writes it with the notes."""
    (embeddings * upstream).sum().backward()
    golden["embeddings"], golden["upstream"] = embeddings, upstream
    for name, p in parameters.items():
        assert p.grad is not None and p.grad.abs().max() > 0, f"{name} has no gradient"
        golden[f"grad.{name}"] = p.grad
    save_file(
        {n: (t.detach().float() if t.is_floating_point() else t).contiguous() for n, t in golden.items()},
        out / "golden.safetensors",
    )
    notes = {"inputs": len(embeddings), "versions": VERSIONS, **notes}
    (out / "make.json").write_text(json.dumps(notes, indent=1) + "\n")


def pixels(seed, count, size=32):
    """Noise with some structure: smooth at a random scale, so that pictures differ."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 5, 5), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    noisy = smooth + 0.15 * torch.randn((count, 3, size, size), generator=generator)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def scaled(picture, mean, std):
    """`[h, w, 3]` u8 -> `[1, 3, h, w]` F64."""
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (mean, std))
    return ((picture.double() / 255 - mean) / std).permute(2, 0, 1)[None]


def mobilenet_weights(generator, stem, blocks):
    """Keras names and layouts; statistics near those of real activations, then disturbed."""
    normal = lambda *shape: torch.randn(shape, generator=generator)
    weights = {}

    def add_norm(name, c):
        weights[f"{name}/gamma"] = 1.5 + 0.5 * normal(c).abs()
        weights[f"{name}/beta"] = 0.7 * normal(c) + 0.8
        weights[f"{name}/moving_mean"] = 0.4 * normal(c)
        weights[f"{name}/moving_variance"] = 0.3 + normal(c).abs()

    weights["conv1/kernel"] = normal(3, 3, 3, stem) * (2 / 27) ** 0.5
    add_norm("conv1_bn", stem)
    for n, (c_in, block) in enumerate(zip([stem] + [b["filters"] for b in blocks], blocks), start=1):
        c = block["filters"]
        weights[f"conv_dw_{n}/depthwise_kernel"] = normal(3, 3, c_in, 1) / 3
        add_norm(f"conv_dw_{n}_bn", c_in)
        weights[f"conv_pw_{n}/kernel"] = normal(1, 1, c_in, c) * (1 / c_in) ** 0.5
        add_norm(f"conv_pw_{n}_bn", c)
    weights["projection/kernel"] = normal(c, PROJECTION) * (1 / c) ** 0.5  # [in, out], as Keras' Dense
    return weights


def mobilenet(out):
    generator = torch.Generator().manual_seed(5)
    mean, std = [0.5] * 3, [0.5] * 3
    blocks = [{"filters": f, "stride": s} for f, s in [(8, 1), (16, 2), (16, 1), (24, 2)]]
    config = {
        "model_type": "mobilenet_v1", "image_size": 32, "stem_filters": 8, "stem_stride": 2, "blocks": blocks,
        "batch_norm_epsilon": reference.EPSILON, "activation": "relu6", "padding": "same", "projection_dim": PROJECTION,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    stored = mobilenet_weights(generator, 8, blocks)
    save_file(stored, out / "model.safetensors", metadata={"format": "keras", "layout": "HWIO kernels; depthwise HWC1"})

    weights = {n: t.double() for n, t in stored.items()}
    parameters = {n: t.requires_grad_() for n, t in weights.items() if "moving_" not in n}
    strides = [b["stride"] for b in blocks]
    # Square, as the model is trained; then one odd, non-square picture: "same" pads those differently.
    pictures = pixels(14, 3)
    odd = pixels(15, 1)[0, :31, :27].contiguous()

    golden, rows, before = {"pixels": pictures, "pixels.odd": odd[None]}, [], []
    for n, picture in enumerate([*pictures, odd]):
        hidden, pooled, entering = reference.forward(scaled(picture, mean, std), weights, strides)
        before += [x.flatten() for x in entering]
        rows.append(normalise(pooled @ weights["projection/kernel"])[0])
        if n == 0:
            golden |= {f"hidden.{level}": h[0].permute(1, 2, 0) for level, h in enumerate(hidden)}
            golden["pooled.0"] = pooled[0]
    golden["embeddings.odd"] = rows.pop()[None]

    before = torch.cat(before)
    margin = min(before.abs().min(), (before - 6).abs().min()).item()
    shares = [(before < 0).double().mean().item(), (before > 6).double().mean().item()]
    assert margin > 1e-5 and min(shares) > 0.005, (margin, shares)
    embeddings = torch.stack(rows)
    upstream = torch.randn(embeddings.shape, generator=generator).double()
    notes = {
        "pooling": "global average, then `projection/kernel` [in, out] without bias", "mean": mean, "std": std,
        "batch_norm": "stored statistics, also for the gradients",
        "odd": "`pixels.odd` gives `embeddings.odd`; it has no part in the gradients",
        "relu6": {"nearest_to_kink": margin, "share_below_0": shares[0], "share_above_6": shares[1]},
    }
    finish(out, golden, parameters, embeddings, upstream, notes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.out / "mobilenet_tiny"
    out.mkdir(exist_ok=True, parents=True)
    mobilenet(out)


if __name__ == "__main__":
    main()
