"""Tiny cross-encoders with random weights, saved by sentence-transformers, scored by `CrossEncoder.predict`.

In:  nothing (seeded).
Out: per case a folder with
     - `checkpoint/`: as `CrossEncoder.save_pretrained` writes it (`bert_plain`: as transformers writes it, with the
       activation under the key that sentence-transformers wrote before version 4);
     - `inputs.json`: `pairs`, a query and a document each;
     - `golden.safetensors`: pairs one behind the other, each run alone, computed in F64 from the stored weights:
       `pair.offsets` I64 [n + 1], `pair.ids` I64, `pair.types` I64 (token types), `pair.total` I64 [n] (tokens
       before truncation), `pair.hidden.L` (output of layer L; 0: what enters the first), `pair.pooled` [n, d],
       `pair.logits` [n, l], `pair.scores` [n, l], `pair.dy` [n, l] random;
     - `gradients.safetensors` (case `bert`): of sum(logits * dy), by the names of the checkpoint.
Asserted: `CrossEncoder.predict` of all pairs in one padded batch gives the same scores.

Run: python testdata/parity/cross_encoders/make.py
"""

import json
import shutil
from pathlib import Path

import numpy as np
import tiny
import torch
from sentence_transformers import CrossEncoder
from transformers import (
    BertConfig, BertForSequenceClassification, BertTokenizer, ModernBertConfig, ModernBertForSequenceClassification,
    PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForSequenceClassification, XLMRobertaTokenizer,
)

HERE = Path(__file__).resolve().parent
D, MLP, HEADS, LIMIT = 36, 52, 4, 40
LONG = " ".join(tiny.CORPUS)
PAIRS = [
    ["how do I bake bread without an oven", "bread can be baked in a covered pot on the stove"],
    ["capital of France", "Paris is the capital and the largest city of France."],
    ["bread", ""],
    ["", "apples: red or green?"],
    ["", ""],
    ["Brot 🍞 хлеб パン", "法国 🍎 pie & Äpfel!"],
    ["train", LONG],
    [LONG, "train"],
    [LONG, LONG[40:]],
    ["a train from Berlin to Paris takes eight hours a train to", LONG],
]


def bert(**more):
    vocabulary = tiny.wordpiece()
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=D, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=MLP,
        max_position_embeddings=LIMIT + 7, num_labels=1, **more,
    )
    return BertForSequenceClassification(config), BertTokenizer(vocab=vocabulary, model_max_length=LIMIT)


def xlm_roberta():
    pieces = tiny.unigram()
    config = XLMRobertaConfig(
        vocab_size=len(pieces), hidden_size=D, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=MLP,
        max_position_embeddings=LIMIT + 2, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2, num_labels=1,
        layer_norm_eps=1e-5,
    )
    tokenizer = XLMRobertaTokenizer(vocab=pieces, model_max_length=LIMIT)
    return XLMRobertaForSequenceClassification(config), tokenizer


def modernbert(pooling, labels, **more):
    inner = tiny.byte_bpe()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token="[MASK]", model_max_length=LIMIT, model_input_names=["input_ids", "attention_mask"],
    )
    ids = {f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"[{token}]")
           for key, token in [("pad", "PAD"), ("cls", "CLS"), ("sep", "SEP"), ("bos", "CLS"), ("eos", "SEP")]}
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=D - 4, num_hidden_layers=3, num_attention_heads=HEADS, intermediate_size=MLP,
        max_position_embeddings=LIMIT + 5, local_attention=12, global_attn_every_n_layers=2, num_labels=labels,
        classifier_pooling=pooling, attn_implementation="sdpa", **ids, **more,
    )
    return ModernBertForSequenceClassification(config), tokenizer


CASES = {
    "bert": bert,
    "bert_plain": lambda: bert(sbert_ce_default_activation_function="torch.nn.modules.linear.Identity"),
    "xlm_roberta": xlm_roberta,
    "modernbert_mean": lambda: modernbert("mean", 3, classifier_bias=True),
    "modernbert_cls": lambda: modernbert("cls", 1, norm_bias=False, classifier_activation="gelu"),
}


def make(name, seed):
    model, tokenizer = CASES[name]()
    tiny.randomise(model, seed)
    out = HERE / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    checkpoint = out / "checkpoint"
    model.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    reference = CrossEncoder(str(checkpoint), device="cpu", local_files_only=True)
    if name != "bert_plain":
        shutil.rmtree(checkpoint)
        reference.save_pretrained(str(checkpoint), create_model_card=False)
    tiny.clean(checkpoint)
    (out / "inputs.json").write_text(json.dumps({"pairs": PAIRS}, ensure_ascii=False, indent=1) + "\n")
    golden = run(name, reference, out, seed)
    tiny.store(golden, out / "golden.safetensors")


def run(name, reference, out, seed):
    model = reference.model.double().eval()
    modern = "modernbert" in name
    layers = model.model.layers if modern else model.base_model.encoder.layer
    norm = model.model.final_norm if modern else torch.nn.Identity()
    mean = getattr(model.config, "classifier_pooling", "cls") == "mean"
    packed, logits, totals, pooled = tiny.Packed("pair"), [], [], []
    for pair in PAIRS:
        features = reference.preprocess([pair])
        ids, n = features["input_ids"], features["input_ids"].shape[1]
        assert features["attention_mask"].all()
        seen, hooks = tiny.record(layers)
        given = {k: features[k] for k in ("input_ids", "token_type_ids") if k in features}
        logits.append(model(**given).logits[0])
        for hook in hooks:
            hook.remove()
        types = features.get("token_type_ids", torch.zeros_like(ids))
        hidden = {f"hidden_{level}": h[0] for level, h in seen.items()}
        packed.add(n, ids=ids[0], types=types[0], **hidden)
        last = norm(seen[len(layers)][0])
        pooled.append(last.mean(0) if mean else last[0])
        totals.append(len(reference.tokenizer([pair], truncation=False)["input_ids"][0]))
    logits = torch.stack(logits)
    dy = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)).double()
    (logits * dy).sum().backward()
    if name == "bert":
        tiny.store(tiny.gradients(model), out / "gradients.safetensors")
    scores = reference.activation_fn(logits).detach()
    batch = reference.float().predict(PAIRS)
    worst = np.abs(batch.reshape(scores.shape) - scores.numpy()).max()
    assert worst < 2e-5, (name, worst)
    print(f"{name}: {type(reference.activation_fn).__name__}, padded batch within {worst:.1e}, scores {scores.flatten()[:4].tolist()}")
    assert len({round(s, 3) for s in scores.flatten().tolist()}) > 5
    return packed.tensors() | {
        "pair.pooled": torch.stack(pooled), "pair.logits": logits, "pair.scores": scores, "pair.dy": dy,
        "pair.total": torch.tensor(totals),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, case in enumerate(CASES):
        make(case, 40 + number)
