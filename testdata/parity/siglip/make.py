"""Tiny SigLIP models with random weights, in transformers' layout, and every stage of their forward.

In:  nothing (seeded).
Out: per case a folder with `checkpoint/` (what `save_pretrained` wrote; `config.json` reduced to what differs from
     the class defaults, as the published checkpoints have it), `inputs.json`, `golden.safetensors`; `images/`.
     - `v1`: SentencePiece unigram with canonicalised text. Published v1 folders hold `spiece.model`, which
       transformers reads, and the same rules as `tokenizer.json`; the ids here are those of transformers'
       `SiglipTokenizer` on the former, and this script asserts that the latter gives them too.
     - `v2`: SigLIP 2 of fixed resolution: Gemma's BPE on lowercased text, bilinear resize, a text tower that is
       narrower than the image tower.
     Trained vocabularies may differ from run to run; everything else follows from the seeds.
How: `two_towers.py`. Texts are padded to exactly `max_position_embeddings` and run without a mask.

Run: python testdata/parity/siglip/make.py
"""

import json
import re
import shutil
import string
import sys
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Siglip2Tokenizer, SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipTokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import two_towers
from two_towers import TEXTS


def canonical(text):
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", text).strip()


CORPUS = [canonical(TEXTS[0]), "the quick brown fox jumps over the lazy dog", "a photo of a cat in a red hat near the bakery wall",
          "blue bicycles lean on walls", "кот сидит на стене", "東京 タワー", "long texts go on", "spaces tabs upper case",
          "walking, talking and baking bakers bake bread while the bicycles are leaning", "upper and lower cases of text",
          "the photographer photographs a tall tower and a small wall", "naïve cats were goings on longer than dogs"] * 3
IMAGES = ["wide", "tall", "small", "grey", "alpha"]


def sentencepiece_tokenizer(folder, length):
    """A SentencePiece model with T5's ids (pad 0 is unused, `</s>` 1, `<unk>` 2) and its `tokenizer.json`."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        (scratch / "rules.tsv").write_text("FF21\t41\nFB01\t66 69\n201C\t22\n", encoding="utf-8")
        (scratch / "corpus.txt").write_text("\n".join(canonical(t) for t in CORPUS) + "\n", encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(scratch / "corpus.txt"), model_prefix=str(scratch / "spiece"), vocab_size=150,
            model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=0.98,
            normalization_rule_tsv=str(scratch / "rules.tsv"), hard_vocab_limit=False, minloglevel=2,
        )
        slow = SiglipTokenizer(str(scratch / "spiece.model"), model_max_length=length)
        slow.save_pretrained(folder)
    proto = slow.sp_model
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = pb.ModelProto()
    model.ParseFromString(proto.serialized_model_proto())
    vocabulary = [(piece.piece, piece.score) for piece in model.pieces]
    fast = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    punctuation = re.escape(string.punctuation)
    fast.normalizer = normalizers.Sequence([
        normalizers.Lowercase(),
        normalizers.Replace(Regex(f"[{punctuation}]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
        normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
    ])
    fast.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    fast.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>",
                                                        special_tokens=[("</s>", 1)])
    fast.add_special_tokens([AddedToken("</s>", normalized=False, special=True),
                             AddedToken("<unk>", normalized=False, special=True)])
    fast.save(str(folder / "tokenizer.json"))
    return slow, fast


def gemma_tokenizer(folder, length):
    """Gemma's kind of BPE with byte fallback, behind transformers' `Siglip2Tokenizer`."""
    start = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"] + [f"<0x{b:02X}>" for b in range(256)]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=start, limit_alphabet=60, show_progress=False)
    trained.train_from_iterator([t.lower() for t in CORPUS], trainer)
    state = json.loads(trained.to_str())["model"]
    merges = [tuple(m) for m in state["merges"]]
    tokenizer = Siglip2Tokenizer(vocab=state["vocab"], merges=merges, model_max_length=length, padding_side="right",
                                 add_bos_token=False, add_eos_token=True)
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", tokenizer.eos_token_id)])
    tokenizer.save_pretrained(folder)
    return tokenizer


def sparse_config(path):
    """Drops what transformers' classes default to, as the published files do."""
    config = json.loads(path.read_text())
    defaults = SiglipConfig()
    kept = {"architectures": ["SiglipModel"], "initializer_factor": 1.0, "model_type": "siglip",
            "torch_dtype": "float32", "transformers_version": config.get("transformers_version")}
    for part in ("text_config", "vision_config"):
        default = getattr(defaults, part).to_dict()
        changed = {k: v for k, v in config[part].items() if k not in default or default[k] != v}
        kept[part] = {"model_type": default["model_type"], **changed}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def case(name, seed, text, vision, processor, make_tokenizer, gradients):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    length = text["max_position_embeddings"]
    tokenizer, ids = make_tokenizer(checkpoint, length)
    config = SiglipConfig(text_config={**text, "vocab_size": len(tokenizer)}, vision_config=vision)
    model = SiglipModel(config)
    two_towers.randomise(model.named_parameters(), generator)
    model.eval().save_pretrained(checkpoint)
    sparse_config(checkpoint / "config.json")
    processor.save_pretrained(checkpoint)
    model = SiglipModel.from_pretrained(checkpoint, attn_implementation="eager").double()

    rows = [ids(t) for t in TEXTS]
    assert all(len(row) == length for row in rows)
    images = [Image.open(HERE / "images" / f"{n}.png") for n in IMAGES]
    pixels = [processor(i, return_tensors="pt")["pixel_values"][0].double() for i in images]

    def run_text(row):
        pooled = {}
        hook = model.text_model.head.register_forward_pre_hook(lambda _, args: pooled.update(x=args[0]))
        features = model.get_text_features(input_ids=torch.tensor([row])).pooler_output
        hook.remove()
        return pooled["x"], features

    def run_image(x):
        features = model.get_image_features(pixel_values=x[None]).pooler_output
        return features, features

    golden = {}
    two_towers.record(golden, "text", model.text_model.encoder.layers, rows, run_text, generator)
    two_towers.record(golden, "image", model.vision_model.encoder.layers, pixels, run_image, generator)
    two_towers.norms_are_lively(golden)
    together = model.get_text_features(input_ids=torch.tensor(rows)).pooler_output
    assert (two_towers.unit(together) - golden["text.embedding"]).abs().max() < 1e-6
    parameters = dict(model.named_parameters())
    assert set(load_file(checkpoint / "model.safetensors")) == set(parameters)
    two_towers.write(folder, golden, TEXTS, IMAGES, rows, pixels, parameters if gradients else None)
    print(name, {k: tuple(v.shape) for k, v in golden.items() if "hidden" not in k})


def v1_tokenizer(folder, length):
    slow, fast = sentencepiece_tokenizer(folder, length)

    def ids(text):
        row = slow(text, padding="max_length", truncation=True, max_length=length)["input_ids"]
        own = fast.encode(text).ids
        own = own[: length - 1] + [1] if len(own) > length else own + [1] * (length - len(own))
        assert own == row, (text, own, row, slow.convert_ids_to_tokens(row))
        return row

    return slow, ids


def v2_tokenizer(folder, length):
    """The folder as published: `GemmaTokenizer` and no lowercasing inside, which `Siglip2Tokenizer` adds."""
    tokenizer = gemma_tokenizer(folder, length)
    for file, change in (("tokenizer.json", lambda j: j.update(normalizer=j["normalizer"]["normalizers"][1])),
                         ("tokenizer_config.json", lambda j: j.update(tokenizer_class="GemmaTokenizer"))):
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    again = Siglip2Tokenizer.from_pretrained(folder)

    def ids(text):
        row = tokenizer(text, padding="max_length", truncation=True, max_length=length)["input_ids"]
        assert row == again(text, padding="max_length", truncation=True, max_length=length)["input_ids"], text
        assert row == tokenizer(text.lower(), padding="max_length", truncation=True, max_length=length)["input_ids"]
        return row

    return tokenizer, ids


def main():
    torch.manual_seed(0)
    two_towers.make_images(HERE / "images")
    size = lambda s: {"height": s, "width": s}
    case(
        "v1", 11,
        dict(hidden_size=36, intermediate_size=52, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=21),
        dict(hidden_size=36, intermediate_size=60, num_hidden_layers=3, num_attention_heads=3, image_size=35,
             patch_size=7),
        SiglipImageProcessorPil(size=size(35), resample=3), v1_tokenizer, gradients=True,
    )
    case(
        "v2", 12,
        dict(hidden_size=30, intermediate_size=44, num_hidden_layers=3, num_attention_heads=3,
             max_position_embeddings=26, projection_size=40),
        dict(hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=5, image_size=32,
             patch_size=8, layer_norm_eps=1e-3, hidden_act="gelu"),
        SiglipImageProcessorPil(size=size(32), resample=2), v2_tokenizer, gradients=False,
    )
    versions = {"torch": torch.__version__, "tokenizers": tokenizers.__version__, "numpy": np.__version__,
                "transformers": __import__("transformers").__version__}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()
