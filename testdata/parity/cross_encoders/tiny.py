"""What the tiny ranking models share: tokenisers trained on the spot, lively weights, recorded stages.

Used by `cross_encoders/make.py`, `colbert/make.py` and `static/make.py`; nothing here is random but by a seed.
"""

import math
from collections import Counter

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "how do I bake bread without an oven", "bread can be baked in a covered pot on the stove",
    "the red apple is sweet, the green apple is sour!", "apples: red or green?", "what is the capital of France",
    "Paris is the capital and the largest city of France.", "a train from Berlin to Paris takes eight hours",
    "Wie backe ich Brot ohne Ofen? Äpfel, Öl und Übung.", "Der Zug nach Paris fährt um acht Uhr.",
    "où est la gare, s'il vous plaît ?", "хлеб можно испечь в кастрюле", "столица Франции Париж",
    "パンを焼く方法", "法国的首都是巴黎", "عاصمة فرنسا باريس", "price 12.50 (was 19.99) & free shipping #1",
    "bread 🍞 and apple 🍎 pie", "email me at baker@example.org / call +49-30-123456", "[note] {draft} <tag> x=1; y=2 | z~3",
]


def common(words, pieces):
    """The beginnings of words that spell the most text. The trainers of `tokenizers` break ties at random."""
    counts = Counter(word[:n] for word in words for n in range(2, 7) if len(word) >= n)
    return {piece: counts[piece] for piece in sorted(counts, key=lambda p: (-counts[p] * len(p), p))[:pieces]}


def wordpiece(without=()):
    """BERT's vocabulary: special tokens first, `[unused0]` and `[unused1]` among them; then letters and pieces."""
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    clean = normalizers.BertNormalizer(lowercase=True).normalize_str
    words = [word for text in CORPUS for word, _ in split(clean(text))]
    letters = sorted(set("".join(words)))
    tokens = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters,
              *[f"##{letter}" for letter in letters if letter.isalnum()], *common(words, 120)]
    return {token: n for n, token in enumerate(t for t in dict.fromkeys(tokens) if t not in without)}


def unigram():
    """XLM-R's kind: pieces with scores, `<s> <pad> </s> <unk>` first and `<mask>` last."""
    words = [f"▁{word}" for text in CORPUS for word in text.split()]
    letters, pieces = Counter("".join(words)), common(words, 140)
    total = sum(letters.values())
    scores = {piece: math.log(count / total) for piece, count in sorted(letters.items())}
    scores |= {piece: math.log(count / total) for piece, count in pieces.items()}
    return [*[(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")], *scores.items(), ("<mask>", 0.0)]


def byte_bpe(size=350):
    """ModernBERT's kind: byte-level BPE with `[CLS]` and `[SEP]` around the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:0 [SEP]:0", special_tokens=ends
    )
    return tokenizer


def randomise(model, seed):
    """Weights large enough that attention is far from uniform and no two roles can be swapped unseen."""
    generator = torch.Generator().manual_seed(seed)
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


def record(layers):
    """Records the input of every layer and the output of the last; gives the record and its hooks."""
    seen = {}

    def before(level):
        def hook(_, args, kwargs):
            seen[level] = args[0] if args else kwargs["hidden_states"]

        return hook

    def after(_, args, output):
        seen[len(layers)] = output[0] if isinstance(output, tuple) else output

    hooks = [layer.register_forward_pre_hook(before(n), with_kwargs=True) for n, layer in enumerate(layers)]
    return seen, [*hooks, layers[-1].register_forward_hook(after)]


class Packed:
    """Sequences one behind the other, and where each begins."""

    def __init__(self, prefix):
        self.prefix, self.rows, self.lengths = prefix, {}, []

    def add(self, length, **tensors):
        """`hidden_0` becomes `PREFIX.hidden.0`."""
        self.lengths.append(length)
        for name, tensor in tensors.items():
            self.rows.setdefault(f"{self.prefix}.{name.replace('_', '.')}", []).append(tensor)

    def tensors(self):
        offsets = torch.tensor([0, *torch.tensor(self.lengths).cumsum(0).tolist()])
        return {f"{self.prefix}.offsets": offsets, **{name: torch.cat(rows) for name, rows in self.rows.items()}}


def store(tensors, path):
    plain = lambda t: t.detach().float() if t.is_floating_point() else t.detach().long()
    save_file({name: plain(t).contiguous() for name, t in tensors.items()}, path)


def gradients(model, rename=lambda name: name):
    """The gradient of every parameter that has one, by the name in the checkpoint."""
    return {rename(name): p.grad for name, p in model.named_parameters() if p.grad is not None}


def clean(folder):
    """Model cards hold dates and machines; they have no part in the numbers."""
    for name in ["README.md", ".gitattributes"]:
        (folder / name).unlink(missing_ok=True)
