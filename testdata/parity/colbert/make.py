"""Tiny ColBERT models with random weights: token vectors and MaxSim of PyLate.

In:  nothing (seeded).
Out: per case a folder with
     - `checkpoint/`: as PyLate's `save_pretrained` writes it; for `stanford` the layout of Stanford's ColBERT
       (`artifact.metadata`, everything in one `model.safetensors`), which PyLate opens, too;
     - `inputs.json`: `queries` and `documents`;
     - `golden.safetensors`, every text run alone, in F64 from the stored weights; S is `query` or `document`:
       `S.offsets` I64 [n + 1], `S.ids` I64 (marker and expansion included), `S.seen` I64 [n] (how many tokens, from the
       first, are attended to), `S.kept` I64 (1: the token has a part in the score), `S.hidden.L` (output of layer L; 0:
       what enters the first), `S.projected` (behind the dense layers), `S.embedding` (of the kept tokens, unit length),
       `S.rows` I64 [n + 1] (where each text's begin), `S.dy` random like `S.embedding`;
       `scores` [queries, documents]: sum over query tokens of the largest dot product;
     - `gradients.safetensors` (cases `bert`, `modernbert`): of the sum of embedding * dy of both sides, by the names of
       the checkpoint's files; the dense layers' with their folder before.
Asserted: PyLate's `encode` of padded batches gives the same vectors.

Run: python testdata/parity/colbert/make.py     (needs pylate)
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from pylate import models, scores
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizer, ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cross_encoders"))
import tiny

D, E, MLP, HEADS, QUERY, DOCUMENT = 36, 20, 52, 4, 14, 25
LONG = " ".join(tiny.CORPUS)
QUERIES = ["how do I bake bread?", "", "Paris", "Brot 🍞 хлеб, パン!", LONG, "[note] a red apple"]
DOCUMENTS = [
    "Bread can be baked (in a covered pot) on the stove!", "", "apples", "Äpfel 🍎, 法国; باريس x=1", LONG, "?! ... ;-)",
    "  a train from Berlin to Paris takes eight hours ", "price 12.50 (was 19.99) & free shipping #1 x~3",
]


def bert(folder, layers=2):
    # `~` is no token: PyLate then skips every unknown token of a document.
    vocabulary = tiny.wordpiece(without=("~", "##~"))
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=D, num_hidden_layers=layers, num_attention_heads=HEADS,
        intermediate_size=MLP, max_position_embeddings=DOCUMENT + 9,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(vocab=vocabulary, model_max_length=DOCUMENT + 9).save_pretrained(folder)


def modernbert(folder):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny.byte_bpe(), unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token="[MASK]", model_max_length=DOCUMENT + 9, model_input_names=["input_ids", "attention_mask"],
    )
    ids = {f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"[{token}]")
           for key, token in [("pad", "PAD"), ("cls", "CLS"), ("sep", "SEP"), ("bos", "CLS"), ("eos", "SEP")]}
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=HEADS, intermediate_size=MLP,
        max_position_embeddings=DOCUMENT + 9, local_attention=8, global_attn_every_n_layers=2, **ids,
    )
    ModernBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


CASES = {
    "bert": (bert, {}),
    "bert_unexpanded": (lambda folder: bert(folder, layers=1), {
        "do_query_expansion": False, "skiplist_words": [",", "a"], "query_prefix": "", "document_prefix": "[unused1]",
    }),
    "modernbert": (modernbert, {}),
    "stanford": (bert, {"query_prefix": "[unused0]", "document_prefix": "[unused1]", "attend_to_expansion_tokens": True}),
}


def make(name, seed):
    build, settings = CASES[name]
    out = HERE / name
    shutil.rmtree(out, ignore_errors=True)
    checkpoint, base = out / "checkpoint", out / "base"
    base.mkdir(parents=True)
    build(base)
    lengths = {"query_length": QUERY, "document_length": DOCUMENT}
    model = models.ColBERT(str(base), device="cpu", embedding_size=E, **lengths, **settings)
    tiny.randomise(model, seed)
    model.save_pretrained(str(checkpoint), create_model_card=False)
    if name == "stanford":
        to_stanford(checkpoint)
    shutil.rmtree(base)
    tiny.clean(checkpoint)
    model = models.ColBERT(str(checkpoint), device="cpu")
    print(name, model.query_prefix, model.document_prefix, model.attend_to_expansion_tokens, model.do_query_expansion)
    texts = {"queries": QUERIES, "documents": DOCUMENTS}
    (out / "inputs.json").write_text(json.dumps(texts, ensure_ascii=False, indent=1) + "\n")
    golden = run(model, out if name in ("bert", "modernbert") else None, seed)
    tiny.store(golden, out / "golden.safetensors")


def to_stanford(checkpoint):
    """One file with `bert.` and `linear.` names, and the settings in `artifact.metadata`."""
    weights = {f"bert.{name}": t for name, t in load_file(checkpoint / "model.safetensors").items()}
    weights |= load_file(checkpoint / "1_Dense" / "model.safetensors")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(checkpoint / "1_Dense")
    for name in ["modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"]:
        (checkpoint / name).unlink()
    config = json.loads((checkpoint / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (checkpoint / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    metadata = {
        "query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_token": "[Q]", "doc_token": "[D]",
        "similarity": "cosine", "bsize": 32, "lr": 1e-05, "dim": E, "doc_maxlen": DOCUMENT, "mask_punctuation": True,
        "query_maxlen": QUERY, "attend_to_mask_tokens": True, "interaction": "colbert", "model_name": None, "nbits": 2,
    }
    (checkpoint / "artifact.metadata").write_text(json.dumps(metadata, indent=2) + "\n")


def side(model, texts, is_query, packed):
    """Every text alone: all stages, and the vectors that score."""
    transformer, vectors = model[0].auto_model, []
    modern = hasattr(transformer, "final_norm")
    layers = transformer.layers if modern else transformer.encoder.layer
    for text in texts:
        features = model.tokenize([text], is_query=is_query)
        ids, seen_tokens = features["input_ids"][0], features["attention_mask"][0]
        assert seen_tokens.tolist() == sorted(seen_tokens.tolist(), reverse=True)
        record, hooks = tiny.record(layers)
        projected = model.forward(features)["token_embeddings"][0]
        for hook in hooks:
            hook.remove()
        kept = model.skiplist_mask(ids[None], model.skiplist)[0] & seen_tokens.bool()
        if is_query:
            kept = torch.ones_like(kept) if model.do_query_expansion else seen_tokens.bool()
        hidden = {f"hidden_{level}": h[0] for level, h in record.items()}
        packed.add(len(ids), ids=ids, kept=kept, projected=projected, **hidden)
        vectors.append((torch.nn.functional.normalize(projected[kept], dim=-1), int(seen_tokens.sum())))
    return vectors


def run(model, gradients_to, seed):
    batches = {
        "query": model.encode(QUERIES, is_query=True, show_progress_bar=False),
        "document": model.encode(DOCUMENTS, is_query=False, show_progress_bar=False),
    }
    model.double().eval()
    generator, golden, loss, tokens = torch.Generator().manual_seed(seed), {}, 0.0, {}
    for name, texts in [("query", QUERIES), ("document", DOCUMENTS)]:
        packed = tiny.Packed(name)
        vectors = side(model, texts, name == "query", packed)
        tokens[name] = [v for v, _ in vectors]
        for alone, batch in zip(tokens[name], batches[name]):
            worst = np.abs(alone.detach().numpy() - batch).max()
            assert alone.shape == batch.shape and worst < 2e-5, (name, alone.shape, batch.shape, worst)
        rows = torch.tensor([0, *np.cumsum([len(v) for v in tokens[name]]).tolist()])
        embedding = torch.cat(tokens[name])
        dy = torch.randn(embedding.shape, generator=generator).double()
        loss = loss + (embedding * dy).sum()
        seen = torch.tensor([n for _, n in vectors])
        golden |= packed.tensors()
        golden |= {f"{name}.{key}": t for key, t in
                   [("embedding", embedding), ("dy", dy), ("rows", rows), ("seen", seen)]}
        print(f"  {name}: {[len(v) for v in tokens[name]]} rows, {seen.tolist()} seen")
    loss.backward()
    if gradients_to:
        parts = tiny.gradients(model[0].auto_model)
        parts |= {f"1_Dense/{name}": p.grad for name, p in model[1].named_parameters()}
        tiny.store(parts, gradients_to / "gradients.safetensors")
    pairs = [[scores.colbert_scores(q[None], d[None])[0, 0] for d in tokens["document"]] for q in tokens["query"]]
    return golden | {"scores": torch.stack([torch.stack(row) for row in pairs])}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, case in enumerate(CASES):
        make(case, 60 + number)
