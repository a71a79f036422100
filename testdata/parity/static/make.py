"""Tiny static embeddings: tables of model2vec and of sentence-transformers' `StaticEmbedding`.

In:  nothing (seeded).
Out: per case a folder with
     - `checkpoint/`: as `StaticModel.save_pretrained` or `SentenceTransformer.save_pretrained` writes it;
     - `inputs.json`: `texts`;
     - `golden.safetensors`: `text.offsets` I64 [n + 1], `text.ids` I64 (what is looked up), `text.hidden.0` [t, e]
       (its rows), `text.pooled` [n, e] (the mean),
       `text.reference` [n, e] (what the library's `encode` gives), `text.embedding` [n, e] (the mean at unit length; zeros
       for a text without tokens), `text.dy` [n, e] random;
     - `gradients.safetensors` (case `model2vec`): of sum(embedding * dy), by the table's name.
Asserted: `text.reference` is the mean or, where the model says so, the mean at unit length.

Run: python testdata/parity/static/make.py
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cross_encoders"))
import tiny

E = 22
TEXTS = ["how do I bake bread?", "", "Paris", "Brot 🍞 хлеб, パン! 日本", " ".join(tiny.CORPUS), "日本", "x~3 & y~4", "  \t "]


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(tiny.wordpiece(without=("~", "##~")), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram(tiny.unigram(), unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def config(**more):
    return {"model_type": "model2vec", "architectures": ["StaticModel"], "tokenizer_name": "tiny", "apply_zipf": True,
            "sif_coefficient": 1e-4, "hidden_dim": E, "seq_length": 1_000_000, **more}


def model2vec(rng, normalize=True):
    tokenizer = wordpiece()
    vectors = rng.normal(size=(tokenizer.get_vocab_size(), E)).astype(np.float32)
    return StaticModel(vectors, tokenizer, config=config(normalize=normalize), normalize=normalize)


def quantised(rng):
    """Fewer rows than tokens, a factor per token, the mean as it is, short texts only."""
    tokenizer = unigram()
    n = tokenizer.get_vocab_size()
    vectors = rng.normal(size=(60, E)).astype(np.float32)
    mapping, weights = rng.integers(0, 60, size=n), rng.uniform(0.2, 2.0, size=n)
    return StaticModel(vectors, tokenizer, config=config(), weights=weights, token_mapping=mapping, max_length=9)


def sentence_transformer(rng):
    tokenizer = wordpiece()
    tokenizer.enable_truncation(11)
    vectors = rng.normal(size=(tokenizer.get_vocab_size(), E)).astype(np.float32)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors), Normalize()], device="cpu")


CASES = {"model2vec": model2vec, "model2vec_quantised": quantised, "sentence_transformers": sentence_transformer}


def looked_up(model):
    """Ids of every text and the table with one row per id."""
    if isinstance(model, SentenceTransformer):
        module = model[0]
        ids = [module.preprocess([text])["input_ids"].tolist() for text in TEXTS]
        return ids, module.embedding.weight.detach().double().clone()
    limit = model.max_length
    ids = [model.tokenize([text[: limit * model.median_token_length]])[0] for text in TEXTS]
    mapping = np.arange(len(model.embedding)) if model.token_mapping is None else model.token_mapping
    weights = np.ones(len(mapping)) if model.weights is None else model.weights
    return ids, torch.from_numpy(model.embedding[mapping].astype(np.float64) * weights[:, None])


def make(name, seed):
    rng = np.random.default_rng(seed)
    out = HERE / name
    shutil.rmtree(out, ignore_errors=True)
    checkpoint = out / "checkpoint"
    model = CASES[name](rng)
    if name == "sentence_transformers":
        model.save_pretrained(str(checkpoint), create_model_card=False)
        model, unit = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True), True
    else:
        checkpoint.mkdir(parents=True)
        model.save_pretrained(checkpoint)
        model = StaticModel.from_pretrained(checkpoint)
        unit = model.normalize
    tiny.clean(checkpoint)
    (out / "inputs.json").write_text(json.dumps({"texts": TEXTS}, ensure_ascii=False, indent=1) + "\n")
    reference = torch.from_numpy(np.asarray(model.encode(TEXTS))).double()

    ids, table = looked_up(model)
    table.requires_grad_()
    pooled = torch.stack([table[row].mean(0) if row else torch.zeros(E).double() for row in ids])
    embedding = torch.nn.functional.normalize(pooled, dim=-1)
    worst = (reference - (embedding if unit else pooled)).abs().max().item()
    assert worst < 1e-6, (name, worst)
    dy = torch.from_numpy(rng.normal(size=pooled.shape))
    (embedding * dy).sum().backward()
    if name == "model2vec":
        tiny.store({"embeddings": table.grad}, out / "gradients.safetensors")
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in ids]).tolist()])
    flat = [i for row in ids for i in row]
    tiny.store({
        "text.offsets": offsets, "text.ids": torch.tensor(flat), "text.hidden.0": table[flat], "text.pooled": pooled,
        "text.reference": reference, "text.embedding": embedding, "text.dy": dy,
    }, out / "golden.safetensors")
    print(f"{name}: {[len(row) for row in ids]} tokens, within {worst:.1e}")


if __name__ == "__main__":
    for number, case in enumerate(CASES):
        make(case, 80 + number)
