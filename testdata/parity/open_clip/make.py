"""Makes the parity cases of open_clip, in the layout of its hub folders.

Out, as told in `../stages.py`:
     vit/       the built-in towers of OpenAI's naming with quick GELU, with gradients
     custom/    `text.` prefix; texts padded to the context length and seen from both sides, last token, projection
                with bias; vision without first norm, mean of patches normed behind, layer scale, own ε and GELU;
                "longest" with a fill colour
     siglip/    timm's ViT with a MAP head behind `visual.trunk`, "squash"; text pooled at `eos_id`, no projection
     eva/       timm's EVA02 behind `visual.trunk`, its classifier as projection; gradients
     linear/    timm's ViT, mean of patches, projection of open_clip; vision alone is compared
     mlp/       the same with open_clip's MLP behind the trunk
     xlm/       transformers' XLM-RoBERTa behind `text.transformer`, mean of tokens, MLP
     tokens.json  ids of open_clip's own tokenizer (`SimpleTokenizer`) for texts that need no repair

timm's towers are made smaller than their names say: open_clip's configuration has no word for it, so `timm.create_model`
is told here. The number of heads stays that of the name.

Run: python make.py (needs torch, timm, open_clip, transformers, tokenizers, safetensors, pillow)
"""

import copy
import functools
import json
import platform
import sys
from pathlib import Path

import open_clip
import safetensors.torch
import timm
import torch
import transformers
from open_clip.factory import get_tokenizer
from open_clip.push_to_hf_hub import save_config_for_hf
from open_clip.transform import PreprocessCfg, image_transform_v2

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import stages  # noqa: E402

sys.path.insert(0, str(HERE.parent / "sentence_encoders"))
from tokenisers import xlm_tokenizer  # noqa: E402

VERSIONS = {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__,
            "open_clip": open_clip.__version__}
TEXTS = [*stages.TEXTS, "Before <|endoftext|> after"]
CONTEXT = 30
VISION = {"image_size": 24, "patch_size": 8, "width": 40, "head_width": 8, "layers": 2, "mlp_ratio": 1.8}
TEXT = {"context_length": CONTEXT, "vocab_size": 563, "hf_tokenizer_name": "a/folder", "width": 32, "heads": 4,
        "layers": 2, "mlp_ratio": 1.75}
CASES = {
    "vit": ({"embed_dim": 28, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}, {}),
    "custom": ({
        "embed_dim": 28, "custom_text": True, "init_logit_bias": -10,
        "vision_cfg": VISION | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True,
                                "ls_init_value": 0.1, "norm_kwargs": {"eps": 1e-3}},
        "text_cfg": TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True,
                            "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
                            "tokenizer_kwargs": {"clean": "canonicalize"}},
    }, {"resize_mode": "longest", "fill_color": 90, "interpolation": "bilinear", "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4]}),
    "siglip": ({
        "embed_dim": 36, "custom_text": True,
        "vision_cfg": {"image_size": 24, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map",
                       "timm_proj": "none", "timm_model_pretrained": False},
        "text_cfg": TEXT | {"width": 36, "pool_type": "eos", "eos_id": 561, "proj_type": "none"},
    }, {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}),
    "eva": ({
        "embed_dim": 28, "custom_text": True,
        "vision_cfg": {"image_size": 24, "timm_model_name": "eva02_base_patch16_clip_224", "timm_pool": "token",
                       "timm_proj": None, "timm_model_pretrained": False},
        "text_cfg": TEXT,
    }, {}),
    "linear": ({
        "embed_dim": 28,
        "vision_cfg": {"image_size": 24, "timm_model_name": "vit_medium_patch16_gap_256", "timm_pool": "avg",
                       "timm_proj": "linear", "timm_proj_bias": True, "timm_model_pretrained": False},
        "text_cfg": TEXT,
    }, {}),
    "mlp": ({
        "embed_dim": 28,
        "vision_cfg": {"image_size": 24, "timm_model_name": "vit_medium_patch16_gap_256", "timm_pool": "avg",
                       "timm_proj": "mlp", "timm_model_pretrained": False},
        "text_cfg": TEXT,
    }, {}),
}
HF = {"hf_model_name": "xlm-roberta-base", "hf_tokenizer_name": "xlm-roberta-base", "hf_pooler_type": "mean_pooler",
      "hf_proj_type": "mlp", "hf_model_pretrained": False, "context_length": CONTEXT}
CASES["xlm"] = ({"embed_dim": 28, "vision_cfg": VISION, "text_cfg": HF}, {})
TINY = {
    "vit_base_patch16_siglip_224": {"embed_dim": 36, "depth": 2, "img_size": 24, "patch_size": 8, "mlp_ratio": 1.8},
    "eva02_base_patch16_clip_224": {"embed_dim": 48, "depth": 1, "img_size": 24, "patch_size": 8, "mlp_ratio": 1.5},
    "vit_medium_patch16_gap_256": {"embed_dim": 32, "depth": 1, "img_size": 24, "patch_size": 8, "mlp_ratio": 1.5},
}
create_model = timm.create_model


def tiny(name, **arguments):
    return create_model(name, **arguments, **TINY[name])


def text_parts(model):
    """The tower, its last norm and what is behind the pooling."""
    text = getattr(model, "text", model)
    projection = text.text_projection
    if projection is None:
        return text, lambda x: x
    return text, projection if isinstance(projection, torch.nn.Module) else lambda x: x @ projection


def record_text(golden, model, words, config, seed):
    """open_clip always pads; ids behind the end are kept only where the tower looks at them."""
    text, head = text_parts(model)
    seen = stages.Stages(text.transformer.resblocks)
    padded = words(TEXTS)
    reads_padding = config.get("no_causal_mask") or config.get("pool_type") == "last"
    lengths = [CONTEXT if reads_padding else n_tokens(words, t) for t in TEXTS]
    rows = [row[:n].tolist() for row, n in zip(padded, lengths)]
    pick = {"last": lambda _: -1, "eos": lambda row: row.index(config.get("eos_id"))}.get(
        config.get("pool_type"), lambda row: row.index(max(row)))

    def run(n):
        embedding = model.encode_text(padded[n : n + 1])
        seen.hidden = {level: h[: lengths[n]] for level, h in seen.hidden.items()}
        pooled = text.ln_final(seen.hidden[len(text.transformer.resblocks)])[pick(rows[n])][None]
        assert torch.equal(head(pooled), embedding)
        return pooled, embedding

    stages.put_ids(golden, rows)
    return stages.record(golden, "text", seen, range(len(TEXTS)), run, seed)


def record_hf_text(golden, model, words, seed):
    text = model.text
    seen = stages.Stages(text.transformer.encoder.layer)
    padded = words(TEXTS)
    rows = [row[: n_tokens(words, t)].tolist() for row, t in zip(padded, TEXTS)]

    def run(row):
        x = torch.tensor([row])
        embedding = model.encode_text(x)
        pooled = seen.hidden[len(text.transformer.encoder.layer)].mean(0)[None]
        assert torch.allclose(text.proj(pooled), embedding)
        return pooled, embedding

    stages.put_ids(golden, rows)
    loss = stages.record(golden, "text", seen, rows, run, seed)
    together = stages.unit(model.encode_text(padded))
    assert (together - golden["text.embedding"]).abs().max() < 1e-6
    return loss


def tiny_hf(words):
    """What `AutoConfig` would fetch, made smaller; the number of heads stays that of the name."""
    config = transformers.XLMRobertaConfig(
        vocab_size=len(words), hidden_size=48, num_hidden_layers=2, num_attention_heads=12, intermediate_size=56,
        max_position_embeddings=CONTEXT + 6, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1)
    open_clip.hf_model.AutoConfig.from_pretrained = lambda *_, **__: config


def n_tokens(words, text):
    """Tokens of a text without padding, by the same steps as `HFTokenizer`."""
    return len(words.tokenizer(words.clean_fn(text), truncation=True, max_length=CONTEXT).input_ids)


def record_images(golden, model, transform, seed):
    pixels = [transform(picture) for picture in stages.pictures()]
    visual = model.visual
    trunk = getattr(visual, "trunk", None)
    seen = stages.Stages(trunk.blocks if trunk else visual.transformer.resblocks)

    def run(x):
        x = x[None].double()
        if trunk:
            pooled = trunk.forward_head(trunk.forward_features(x), pre_logits=True)
            embedding = visual(x)
            assert torch.allclose(visual.head(trunk.head(pooled)), embedding)
        else:
            embedding = visual(x)
            pooled, _ = visual._pool(seen.last)
            assert torch.equal(pooled @ visual.proj, embedding)
        return pooled, embedding

    if not trunk:
        visual.transformer.register_forward_hook(lambda _, __, y: setattr(seen, "last", y))
    stages.put_pixels(golden, pixels)
    return stages.record(golden, "image", seen, pixels, run, seed)


def save(model, words, config, preprocess, out):
    """The steps of `save_for_hf`."""
    safetensors.torch.save_file(model.state_dict(), out / "open_clip_model.safetensors")
    words.save_pretrained(out)
    open_clip.model.set_model_preprocess_cfg(model, preprocess)
    save_config_for_hf(model, out / "open_clip_config.json", config)


def make(case, seed, config, preprocess):
    out = stages.fresh(case)
    timm.create_model = tiny
    arguments = {k: v for k, v in copy.deepcopy(config).items() if k != "custom_text"}
    is_hf = "hf_model_name" in config["text_cfg"]
    made = xlm_tokenizer(CONTEXT) if is_hf else stages.clip_tokenizer(CONTEXT, extra=["tomatoes"])
    if is_hf:
        tiny_hf(made)
    kind = open_clip.model.CustomTextCLIP if config.get("custom_text") or is_hf else open_clip.model.CLIP
    model = stages.lively(kind(**arguments), seed)
    preprocess = {"size": 24, **preprocess}
    cfg = PreprocessCfg(**preprocess)
    save(model, made, config, cfg.__dict__, out)
    if "fill_color" in preprocess:  # `save_config_for_hf` forgets it; published folders that need it have it
        whole = json.loads((out / "open_clip_config.json").read_text())
        whole["preprocess_cfg"]["fill_color"] = preprocess["fill_color"]
        (out / "open_clip_config.json").write_text(json.dumps(whole, indent=2))
    # What users call.
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{out}")
    model = model.eval().double()
    words = get_tokenizer(f"local-dir:{out}")
    golden = {}
    loss = record_images(golden, model, transform, seed + 200)
    texts = None if case.name in ("linear", "mlp") else TEXTS
    if is_hf:
        record_hf_text(golden, model, words, seed + 100)
    elif texts:
        loss = loss + record_text(golden, model, words, config["text_cfg"], seed + 100)
    stages.write(case, golden, texts, stages.PICTURES, VERSIONS)
    if case.name in ("vit", "eva"):
        without = stages.write_gradients(case, model, loss, out / "open_clip_model.safetensors")
        assert without == {"logit_scale"}, without


PLAIN = [
    "A photo of two red apples", "", "apple", "🍎🍏 яблоко りんご apple, nandu 3 1/2", "it's  the cat's\tlife \n", "WORD " * 200,
    "<end_of_text> inside <start_of_text>", "before <|endoftext|> after <|startoftext|>", "x" * 300, "don't we'll I'D", "a\u00a0b",
    "1234567890 $9.99 (50% off!) #tag @you", "naïve café Ünïcödé", "日本語のテキスト、混在 mixed", "a_b-c/d\\e",
]


def own_tokens():
    words = open_clip.SimpleTokenizer()
    rows = [[words.sot_token_id, *words.encode(t), words.eot_token_id] for t in PLAIN]
    cut = [row[:76] + [row[-1]] if len(row) > 77 else row for row in rows]
    assert all(words([t])[0].tolist()[: len(row)] == row for t, row in zip(PLAIN, cut))
    cases = [{"text": t, "ids": row} for t, row in zip(PLAIN, cut)]
    (HERE / "tokens.json").write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n")


def main():
    torch.set_num_threads(1)
    own_tokens()
    for seed, (case, (config, preprocess)) in enumerate(CASES.items()):
        make(HERE / case, seed, config, preprocess)


if __name__ == "__main__":
    main()
