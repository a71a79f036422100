"""Makes the parity cases of `CLIPModel` and its towers alone, in the layout of transformers.

Out, as told in `../stages.py`:
     quick_gelu/  a full dump of the configuration as OpenAI's checkpoints have it (`eos_token_id` 2: the end of the
                  text is the largest id; `preprocessor_config.json` of CLIPFeatureExtractor), with gradients
     gelu/        what transformers 5 writes (differences only, `processor_config.json`); the real `eos_token_id`,
                  and a token with a larger id; resized to more than is cut out
     text/, vision/  CLIPTextModelWithProjection and CLIPVisionModelWithProjection

The pixels are those of the Pillow image processor (`CLIPImageProcessorPil`): published models were trained with it,
and the torchvision one of transformers 5 rounds differently.

Run: python make.py (needs torch, transformers, tokenizers, safetensors, pillow)
"""

import json
import platform
import sys
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import load_file
from transformers import (
    CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import stages  # noqa: E402

VERSIONS = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__}
MAX_TOKENS = 30
TEXTS = [*stages.TEXTS, "Before <|endoftext|> after"]


def config(words, **changed):
    text = {"vocab_size": len(words), "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": MAX_TOKENS, "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    vision = {"hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 5,
              "image_size": 24, "patch_size": 8}
    for key, value in changed.items():
        text[key] = value
        vision[key] = value
    # The projection of the whole model; the towers' own `projection_dim` counts when a tower stands alone.
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=28)


def ids_of(words, texts):
    return [words(t, truncation=True).input_ids for t in texts]


def record_text(golden, body, embed, ids, seed):
    """`body`: the text transformer, `embed`: what is behind its pooling."""
    seen = stages.Stages(body.encoder.layers)

    def run(row):
        pooled = body(input_ids=torch.tensor([row])).pooler_output
        return pooled, embed(pooled)

    stages.put_ids(golden, ids)
    return stages.record(golden, "text", seen, ids, run, seed)


def record_images(golden, body, embed, processor, seed):
    pixels = [processor(p, return_tensors="pt").pixel_values[0] for p in stages.pictures()]
    seen = stages.Stages(body.encoder.layers)

    def run(x):
        pooled = body(pixel_values=x[None].double()).pooler_output
        return pooled, embed(pooled)

    stages.put_pixels(golden, pixels)
    return stages.record(golden, "image", seen, pixels, run, seed)


def assert_padding_is_harmless(model, words, golden):
    batch = words(TEXTS, truncation=True, padding=True, return_tensors="pt")
    padded = stages.unit(model.get_text_features(**batch).pooler_output)
    assert (padded - golden["text.embedding"]).abs().max() < 1e-6


def both(case, words, model, processor, seed, gradients):
    golden = {}
    text, vision = model.text_model, model.vision_model
    loss = record_text(golden, text, model.text_projection, ids_of(words, TEXTS), seed + 1)
    loss = loss + record_images(golden, vision, model.visual_projection, processor, seed + 2)
    assert_padding_is_harmless(model, words, golden)
    stages.write(case, golden, TEXTS, stages.PICTURES, VERSIONS)
    if gradients:
        without = stages.write_gradients(case, model, loss, case / "checkpoint/model.safetensors")
        assert without == {"logit_scale"}, without


def quick_gelu(case):
    out = stages.fresh(case)
    words = stages.clip_tokenizer(MAX_TOKENS)
    model = stages.lively(CLIPModel(config(words, projection_dim=28)), 1)
    model.text_model.eos_token_id = 2
    model.config.text_config.eos_token_id = 2
    model.save_pretrained(out)
    words.save_pretrained(out)
    full = model.config.to_dict() | {"text_config_dict": None, "vision_config_dict": None}
    (out / "config.json").write_text(json.dumps(full, indent=2, sort_keys=True) + "\n")
    old = {"crop_size": 24, "do_center_crop": True, "do_normalize": True, "do_resize": True,
           "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
           "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 24}
    (out / "preprocessor_config.json").write_text(json.dumps(old, indent=2) + "\n")
    processor = CLIPImageProcessorPil.from_pretrained(out)
    assert CLIPModel.from_pretrained(out).text_model.eos_token_id == 2
    both(case, words, model.double(), processor, 10, gradients=True)


def gelu(case):
    out = stages.fresh(case)
    words = stages.clip_tokenizer(MAX_TOKENS, extra=["tomatoes"])
    model = stages.lively(CLIPModel(config(words, hidden_act="gelu", layer_norm_eps=1e-3)), 2)
    model.save_pretrained(out)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 29}, crop_size={"height": 24, "width": 24}, resample=2,
        image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4],
    )
    transformers.CLIPProcessor(processor, words).save_pretrained(out)
    both(case, words, model.double(), processor, 20, gradients=False)


def alone(case, source, kind):
    out = stages.fresh(case)
    words, processor = CLIPTokenizer.from_pretrained(source), CLIPImageProcessorPil.from_pretrained(source)
    model = kind.from_pretrained(source)
    model.save_pretrained(out)
    golden = {}
    if kind is CLIPTextModelWithProjection:
        words.save_pretrained(out)
        texts = TEXTS[:2]
        record_text(golden, model.double().text_model, model.text_projection, ids_of(words, texts), 31)
        stages.write(case, golden, texts, None, VERSIONS)
    else:
        processor.save_pretrained(out)
        record_images(golden, model.double().vision_model, model.visual_projection, processor, 32)
        stages.write(case, golden, None, stages.PICTURES, VERSIONS)
    whole = load_file(source.parent / "golden.safetensors")
    name = "text.embedding" if "text.embedding" in golden else "image.embedding"
    assert (whole[name][: len(golden[name])] - golden[name]).abs().max() < 1e-6


def main():
    torch.set_num_threads(1)
    quick_gelu(HERE / "quick_gelu")
    gelu(HERE / "gelu")
    alone(HERE / "text", HERE / "quick_gelu/checkpoint", CLIPTextModelWithProjection)
    alone(HERE / "vision", HERE / "quick_gelu/checkpoint", CLIPVisionModelWithProjection)


if __name__ == "__main__":
    main()
