"""Writes the models and inputs of the benchmark into a cache folder: seeded random weights, as published layouts.

In:  CACHE, the folder to fill (never in the repository); `$CONJOIN_SHARED` (or --shared), where the real weights
     of MiniLM and MobileNet, the vocabularies, the titles and the photos lie.
Out: CACHE/models/NAME (folders that conjoin, transformers and sentence-transformers open), CACHE/onnx/NAME.FORM.onnx
     (`export.py`), CACHE/inputs (raw pixels, token ids, titles, JPEG files). What is there already is kept.
How: speed does not depend on the weights' values, but the share of 8-bit error does: weights are drawn so that
     attention is neither uniform nor one-hot and every layer changes its input.

Run: python benches/peers/make_models.py CACHE [--shape vit_b32]
"""

import argparse
import gzip
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np

import cases

ROOT = Path(__file__).resolve().parents[2]


def default_shared():
    """Where larger public data lie: `$CONJOIN_SHARED`, else the folder beside the checkout."""
    return Path(os.environ.get("CONJOIN_SHARED") or ROOT.with_name("shared"))


def lively(model, seed):
    """Random weights under which every part of the model matters."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 0:
                continue
            if p.ndim == 1 and name.endswith("weight"):  # norms
                p.copy_(1 + 0.1 * noise)
            elif p.ndim == 1:
                p.copy_(0.05 * noise)
            elif "embedding" in name and "patch" not in name:
                p.copy_(0.5 * noise)
            else:  # products and the patch kernel
                p.copy_(0.8 * noise / p[0].numel() ** 0.5)
    return model.eval()


def vision(folder, patch, seed):
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        image_size=224, patch_size=patch, projection_dim=512,
    )
    lively(CLIPVisionModelWithProjection(config), seed).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)


def clip_tokenizer(shared):
    """CLIP's own byte-level vocabulary, from its list of merges."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    lines = gzip.open(shared / "data/tokenizers/bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8").read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49_152 - 256 - 2 + 1]]
    letters = list(bytes_to_unicode().values())
    words = letters + [letter + "</w>" for letter in letters] + ["".join(merge) for merge in merges]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def clip_text(folder, shared, seed):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8, projection_dim=512,
        bos_token_id=49_406, eos_token_id=49_407, pad_token_id=49_407,
    )
    lively(CLIPTextModelWithProjection(config), seed).save_pretrained(folder)
    clip_tokenizer(shared).save_pretrained(folder)


def bert(folder, minilm, pooling, seed):
    """A folder of sentence-transformers; tokeniser and module list are MiniLM's, whose vocabulary is BERT's."""
    from transformers import BertConfig, BertModel

    lively(BertModel(BertConfig(), add_pooling_layer=False), seed).save_pretrained(folder)
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json"]:
        shutil.copyfile(minilm / name, folder / name)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 512, "do_lower_case": false}\n')
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ["cls_token", "mean_tokens", "max_tokens"]}
    settings = {"word_embedding_dimension": 768} | modes
    (folder / "1_Pooling/config.json").write_text(json.dumps(settings, indent=2) + "\n")


def model_folder(cache, shared, name):
    """The folder that every contender opens; made when it is not there."""
    published = {"minilm": "all-MiniLM-L6-v2", "mobilenet": "mobilenet_v1_0.75_224"}
    if name in published:
        return shared / "weights" / published[name]
    folder = cache / "models" / name
    if folder.exists() or name == "dual":
        return folder
    unfinished = cache / "models" / f"{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    minilm = shared / "weights/all-MiniLM-L6-v2"
    make = {
        "vit_b32": lambda: vision(unfinished, 32, 1),
        "vit_b16": lambda: vision(unfinished, 16, 2),
        "clip_text": lambda: clip_text(unfinished, shared, 3),
        "bert": lambda: bert(unfinished, minilm, "mean_tokens", 4),
        "bert_cls": lambda: bert(unfinished, minilm, "cls_token", 5),
    }
    make[name]()
    unfinished.rename(folder)
    return folder


def pixels(path, case):
    """`[b, side, side, 3]` u8: smooth blobs with noise, so that patches differ as those of photos do."""
    generator = np.random.default_rng(7)
    coarse = generator.integers(0, 256, (case.batch, case.side // 16, case.side // 16, 3))
    smooth = coarse.repeat(16, 1).repeat(16, 2)
    noise = generator.integers(-40, 41, smooth.shape)
    path.write_bytes((smooth + noise).clip(0, 255).astype(np.uint8).tobytes())


def ids(path, case):
    generator = np.random.default_rng(11)
    if case.model == "clip_text":
        rows = generator.integers(0, 49_152, (case.batch, case.length))
        rows[:, 0], rows[:, -1] = 49_406, 49_407
    else:
        rows = generator.integers(1_000, 30_522, (case.batch, case.length))
        rows[:, 0], rows[:, -1] = 101, 102
    path.write_text(json.dumps(rows.tolist()) + "\n")


def titles(path, shared, n):
    """Every k-th title of the catalogue, so that all lengths are there."""
    import csv

    with open(shared / "data/homedepot/products.csv", encoding="utf-8", newline="") as file:
        rows = [" ".join(row["title"].split()) for row in csv.DictReader(file)]
    path.write_text("".join(title + "\n" for title in rows[:: len(rows) // n][:n]), encoding="utf-8")


def jpegs(folder, shared, n):
    folder.mkdir()
    with tarfile.open(shared / "data/flickr8k/val-0000.tar") as tar:
        pictures = sorted((m for m in tar if m.name.endswith(".jpg")), key=lambda m: m.name)
        for i, member in enumerate(pictures[:n]):
            (folder / f"{i:04}.jpg").write_bytes(tar.extractfile(member).read())


def make_input(cache, shared, case):
    """The input of a case; made when it is not there."""
    path = cache / "inputs" / case.input
    if path.exists() or case.work == "train":
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    make = {
        "pixels": lambda: pixels(path, case),
        "ids": lambda: ids(path, case),
        "texts": lambda: titles(path, shared, case.batch),
        "jpegs": lambda: jpegs(path, shared, case.batch),
    }
    make[case.work]()
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--shape", action="append", default=[], help="start of a shape's name; may be repeated")
    parser.add_argument("--shared", type=Path, default=default_shared())
    parser.add_argument("--no-onnx", action="store_true")
    args = parser.parse_args()
    for case in cases.named(args.shape):
        folder = model_folder(args.cache, args.shared, case.model)
        print(f"{case.name}: {folder}, {make_input(args.cache, args.shared, case)}", flush=True)
        if case.model != "dual" and not args.no_onnx:
            import export

            for int8 in (False, True):
                for path in export.variants(args.cache, folder, case.model, case.work, int8):
                    print(f"  {path}", flush=True)


if __name__ == "__main__":
    main()
