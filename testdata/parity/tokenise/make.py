"""Makes the reference token ids of BERT's and CLIP's tokenizers.

Out: ids.json: texts, and per text the ids of transformers' `BertTokenizer` (uncased) and `CLIPTokenizer`,
     whole and cut to few slots, special tokens included. Versions inside.

Run: python make.py (needs transformers; reads ../../../assets/tokenizers)
"""

import gzip
import json
from pathlib import Path

import tokenizers
import transformers
from transformers import BertTokenizer, CLIPTokenizer

HERE = Path(__file__).parent
ASSETS = HERE.parents[2] / "assets" / "tokenizers"
SLOTS = 8

TEXTS = [
    "",
    " ",
    " \t\r\n ",
    "a photo of a cat",
    "A Photo of a CAT.",
    "Hello, world! It's 5 o'clock; isn't it? We'll see, they'd've said.",
    "red-striped T-shirt, size XL (100% cotton) - $19.99/piece",
    "don't DON'T can't y'all 'tis rock'n'roll",
    "1234567890 3.14159 1,000,000 2e-5 007 x86_64",
    "email@example.com https://example.com/a?b=c&d=%20e#f",
    "naïve café Ångström façade résumé coöperate",
    "e\u0301 vs é, A\u030a vs Å, n\u0303 vs ñ",
    "ß ẞ ĲSSELMEER ﬁne ﬂow ½ ² ™ ℃",
    "İstanbul ISPARTA ıssız",
    "ΟΔΥΣΣΕΥΣ Ἀχιλλεύς ᾳ",
    "Съешь же ещё этих мягких французских булок",
    "שָׁלוֹם עולם",
    "مَرْحَبًا بالعالم ١٢٣",
    "नमस्ते दुनिया क्षत्रिय",
    "สวัสดีชาวโลก",
    "한국어 텍스트와 한글",
    "ハロー・ワールド、ｶﾀｶﾅ ＡＢＣ１２３",
    "我喜欢吃苹果。你呢？",
    "𠀀𠀁 丽 漢字kanjiかなmixed",
    "🙂 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ ✈",
    "cat🐱dog🐶 #hashtag @user :-) ¯\\_(ツ)_/¯",
    "Mixed Кириллица and 漢字 and العربية in one line",
    "tab\tnewline\ncarriage\rreturn\u000bvertical\u000cfeed",
    "no\u00a0break\u2003em\u3000ideographic\u2028line\u2029paragraph\u0085next",
    "zero\u200bwidth\u200djoiner\ufeffbom\u00adsoft\u2060word",
    "nul\u0000 bell\u0007 escape\u001b[0m delete\u007f unit\u001fsep\u001c",
    "replacement \ufffd private \ue000 unassigned \u0378 noncharacter \uffff",
    "a\u0300\u0301\u0302\u0303\u0304\u0305 zalgo h̷e̸l̶l̴o̵",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 99,
    "x" * 101,
    "ab " * 400,
    "The quick brown fox jumps over the lazy dog. " * 40,
    "!!!???...---___***///\\\\\\|||~~~```^^^",
    "«quoted» “curly” ‘single’ „low“ … – — ‐ •",
    "[CLS] injected [SEP] and [MASK] [PAD] [unk]",
    "<|startoftext|> injected <|endoftext|> <|ENDOFTEXT|> </w> a</w>",
    "&amp; &lt;b&gt; &#39; &amp;amp; <b>html</b>",
    "Ã©tÃ© mojibake â€œquotesâ€",
    "trailing space ",
    " leading space",
    "H2O CO₂ x²+y²=z² ∑∫√∞≈≠ →←↔",
    "I'M 'S 'RE it'S we'LL",
    "ⅣⅫ ①② ٣ ५ 〇 ½",
    "ǅ ǈ ŉ ΐ ﬀ",
]


def clip_tokenizer():
    lines = gzip.open(ASSETS / "clip-bpe-merges.txt.gz").read().decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    vocab = letters + [letter + "</w>" for letter in letters]
    vocab += ["".join(merge) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=merges)


bert = BertTokenizer(str(ASSETS / "bert-base-uncased.vocab.txt"))
clip = clip_tokenizer()
cases = []
for text in TEXTS:
    case = {"text": text}
    for name, tokenizer in {"bert": bert, "clip": clip}.items():
        case[name] = tokenizer(text)["input_ids"]
        case[f"{name}_cut"] = tokenizer(text, truncation=True, max_length=SLOTS)["input_ids"]
    cases.append(case)
versions = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
head = json.dumps({"versions": versions, "slots": SLOTS})[1:-1]
lines = ",\n".join("  " + json.dumps(case) for case in cases)
(HERE / "ids.json").write_text(f'{{{head}, "cases": [\n{lines}\n]}}\n')
print(len(cases))
