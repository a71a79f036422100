"""Reference embeddings of the sentence encoder all-MiniLM-L6-v2 (transformers + sentence-transformers).

In:  the model folder (F16 weights, computed in F32), by argument. The weights stay outside the repository.
Out: `texts.json` (texts, lengths, versions) and `golden.safetensors`:
     `ids.N` I64 `[t]` (with [CLS] and [SEP], cut to 256), `embeddings` F32 `[n, 384]` (mean over the
     tokens, then unit length). Every text runs alone, so no padding can matter.
Trap: the model's `tokenizer.json` asks for cutting and padding to 128; `sentence_bert_config.json`
     (256, no padding) is what the model was published with, and what is used here.

Run: python testdata/parity/minilm/make.py PATH_TO/all-MiniLM-L6-v2 [--out DIR]
"""

import argparse
import json
import os
import platform
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import safetensors
import sentence_transformers
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
MAX_TOKENS = 256
LONG = (
    "The lamp has a heavy base of cast iron, an arm that bends in two places and a shade of frosted glass; "
    "it stands on a desk without slipping and throws a warm, even light on paper. "
)
TEXTS = [
    "red shoes",
    "a",
    "Two dogs run through shallow water while a child watches from the shore.",
    LONG * 8,
    "",
    "pizza night 🍕🎉 with friends 👩‍👩‍👧",
    "Crème brûlée à la vanille, façon grand-mère; Ångström, naïve, Straße",
    "Waterproof hiking boots for women, mid height, dark green, size 39",
    "Stainless steel water bottle 750 ml, double wall, with straw lid (matte black)",
    "   spaces\t tabs\nand lines   ",
    "日本語のテキスト и кириллица",
    "UPPER lower 12,345.67 e-mail@example.org C++ #42 -- \"quoted\" [SEP] [MASK]",
]


def embed(model, ids):
    """Mean over all tokens of one text, then unit length."""
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    return torch.nn.functional.normalize(hidden.last_hidden_state.mean(1), dim=1)[0].numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    model = transformers.BertModel.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()

    ids = [tokenizer.encode(text).ids for text in TEXTS]
    embeddings = np.stack([embed(model, row) for row in ids]).astype(np.float32)

    published = sentence_transformers.SentenceTransformer(str(args.model), device="cpu", model_kwargs={"dtype": torch.float32})
    theirs = np.concatenate([published.encode([text]) for text in TEXTS])
    difference = float(np.abs(theirs - embeddings).max())
    assert difference < 2e-6, f"sentence-transformers differs by {difference}"
    assert any(len(row) == MAX_TOKENS for row in ids), "one text must be cut"

    golden = {f"ids.{n}": np.array(row, dtype=np.int64) for n, row in enumerate(ids)}
    golden["embeddings"] = embeddings
    save_file(golden, args.out / "golden.safetensors")
    about = {
        "model": "sentence-transformers/all-MiniLM-L6-v2, weights F16 widened to F32",
        "max_tokens": MAX_TOKENS,
        "lengths": [len(row) for row in ids],
        "max_difference_to_sentence_transformers": difference,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "sentence_transformers": sentence_transformers.__version__,
            "safetensors": safetensors.__version__,
        },
        "texts": TEXTS,
    }
    (args.out / "texts.json").write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
