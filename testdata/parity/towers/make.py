"""Tiny towers with random weights: forward, every layer, and every gradient, from PyTorch in F64.

In:  nothing (seeded).
Out: per case a folder `bert_tiny`, `clip_text_tiny`, `vit_tiny`, `mobilenet_tiny` with
     - `config.json`, `model.safetensors` (F32): the layout of transformers (of Keras for MobileNet);
     - `golden.safetensors`:
       `ids.N` I64 `[t]` per sequence, or `pixels` U8 `[b, 32, 32, 3]` (HWC; value x enters as
       (x / 255 - mean) / std, see `config.json` and `make.json`);
       `hidden.L` F32: input of layer L (so `hidden.0` is what the embedding part gives) and, for the last
       L, output of the last layer, before any final norm; of input 0 alone: `[t, d]`, or `[h, w, c]` HWC;
       `pooled.0` F32 `[d]`: input 0 pooled, before projection and normalisation;
       `embeddings` F32 `[b, e]` of unit length; `upstream` F32 `[b, e]`: dL/dE, L = sum(E * upstream);
       `grad.NAME` F32: dL/dNAME for every trainable tensor of `model.safetensors`.
     - `make.json`: versions and what a reader must know.
How: every input runs alone, so neither padding nor the batch can matter; computed in F64 from the stored
     F32 weights, rounded to F32 once. Norm weights, biases and batch-norm statistics are random, so that
     leaving one out shows. No value that enters a relu6 lies within 1e-5 of a kink.

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
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModelWithProjection
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "mobilenet"))
import reference

D, PROJECTION, VOCABULARY, EOS = 32, 24, 99, 98
LENGTHS = [7, 12, 3, 40, 1, 9]
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
VERSIONS = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "safetensors": safetensors.__version__,
}


def randomise(model, generator):
    """Weights large enough that attention is far from uniform and no two roles can be swapped unseen."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1 and name.endswith("weight"):
                p.copy_(1.0 + 0.3 * noise)
            elif p.ndim == 1:
                p.copy_(0.3 * noise)
            elif "embedding" in name:
                p.copy_(0.7 * noise)
            else:
                p.copy_(1.3 * noise / p[0].numel() ** 0.5)


def capture(layers):
    """Records the input of every layer and the output of the last."""
    seen = {}

    def before(level):
        def record(_, args, kwargs):
            seen[level] = args[0] if args else kwargs["hidden_states"]

        return record

    def after(_, args, output):
        seen[len(layers)] = output[0] if isinstance(output, tuple) else output

    hooks = [layer.register_forward_pre_hook(before(n), with_kwargs=True) for n, layer in enumerate(layers)]
    return seen, [*hooks, layers[-1].register_forward_hook(after)]


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


def transformer_case(out, seed, model, layers, inputs, pool, notes):
    """`inputs`: name -> tensor and `pool(model, tensor) -> (pooled [d], embedding [e])`, one input at a time."""
    generator = torch.Generator().manual_seed(seed)
    randomise(model, generator)
    model.eval().save_pretrained(out)
    stored = load_file(out / "model.safetensors")
    model.double()
    parameters = {n: p for n, p in model.named_parameters()}
    assert set(stored) >= set(parameters), sorted(set(parameters) - set(stored))

    golden, rows = {}, []
    for n, x in enumerate(inputs):
        seen, hooks = capture(layers) if n == 0 else ({}, [])
        pooled, embedding = pool(model, x)
        for hook in hooks:
            hook.remove()
        golden |= {f"hidden.{level}": h[0] for level, h in seen.items()}
        if n == 0:
            golden["pooled.0"] = pooled[0]
        rows.append(embedding[0])
    embeddings = torch.stack(rows)
    upstream = torch.randn(embeddings.shape, generator=generator).double()
    return golden, parameters, embeddings, upstream, notes


def sequences(generator, low, high):
    return [torch.randint(low, high, (t,), generator=generator) for t in LENGTHS]


def bert(out):
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=D, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, hidden_act="gelu", layer_norm_eps=1e-12, attn_implementation="sdpa",
    )
    model = BertModel(config, add_pooling_layer=False)
    ids = sequences(torch.Generator().manual_seed(11), 0, VOCABULARY)

    def pool(model, x):
        mean = model(input_ids=x[None], attention_mask=torch.ones_like(x)[None]).last_hidden_state.mean(1)
        return mean, normalise(mean)

    golden, *rest = transformer_case(
        out, 1, model, model.encoder.layer, ids, pool, {"pooling": "mean over all tokens of the sequence"}
    )
    finish(out, golden | {f"ids.{n}": row for n, row in enumerate(ids)}, *rest)


def clip_text(out):
    config = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=D, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, hidden_act="quick_gelu", projection_dim=PROJECTION,
        bos_token_id=97, eos_token_id=EOS, pad_token_id=EOS, attn_implementation="sdpa",
    )
    model = CLIPTextModelWithProjection(config)
    ids = sequences(torch.Generator().manual_seed(12), 0, 97)
    for row in ids:
        row[0], row[-1] = 97, EOS

    def pool(model, x):
        y = model(input_ids=x[None])
        at_end = y.last_hidden_state[:, -1]
        assert torch.equal(y.text_embeds, model.text_projection(at_end))
        return at_end, normalise(y.text_embeds)

    golden, *rest = transformer_case(
        out, 2, model, model.text_model.encoder.layers, ids, pool,
        {"pooling": "the last token (id 98) after the final norm, then the projection", "mask": "causal"},
    )
    finish(out, golden | {f"ids.{n}": row for n, row in enumerate(ids)}, *rest)


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


def vit(out):
    config = CLIPVisionConfig(
        hidden_size=D, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, patch_size=8, image_size=32,
        hidden_act="quick_gelu", projection_dim=PROJECTION, attn_implementation="sdpa",
    )
    model = CLIPVisionModelWithProjection(config)
    pictures = pixels(13, 3)

    def pool(model, x):
        y = model(pixel_values=scaled(x, CLIP_MEAN, CLIP_STD))
        pooled = model.vision_model.post_layernorm(y.last_hidden_state[:, 0])
        assert torch.equal(y.image_embeds, model.visual_projection(pooled))
        return pooled, normalise(y.image_embeds)

    golden, *rest = transformer_case(
        out, 3, model, model.vision_model.encoder.layers, pictures, pool,
        {"pooling": "the class token after the final norm, then the projection", "mean": CLIP_MEAN, "std": CLIP_STD},
    )
    finish(out, golden | {"pixels": pictures}, *rest)


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
    for name, case in [("bert_tiny", bert), ("clip_text_tiny", clip_text), ("vit_tiny", vit), ("mobilenet_tiny", mobilenet)]:
        (args.out / name).mkdir(exist_ok=True, parents=True)
        case(args.out / name)


if __name__ == "__main__":
    main()
