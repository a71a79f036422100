"""Tiny tokenisers of each family's own kind, made of a few sentences; the same ones every time.

In:  `CORPUS`. Out: tokenisers of transformers' own classes, to be saved by them.
"""

import json
import math
from collections import Counter

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "Two dogs run through shallow water while a child watches from the shore.",
    "The lamp has a heavy base of cast iron and a shade of frosted glass.",
    "Waterproof hiking boots for women, mid height, dark green, size 39.",
    "Stainless steel water bottle 750 ml with straw lid (matte black).",
    "A red shoe on a white table; the red shoes are for the child.",
    "pizza night with friends and the dogs of the house",
    "Crème brûlée à la vanille, façon grand-mère; naïve Straße",
    "быстрый красный ботинок на столе 日本語 のテキスト",
    "query: what is the size of the bottle? passage: the bottle has 750 ml.",
]


def frequent(words, size):
    """The characters of the words, then their most frequent parts; the trainers of the library break ties at random."""
    counts = Counter(word[i:j] for word in words for i in range(len(word)) for j in range(i + 1, min(len(word), i + 6) + 1))
    characters = sorted(c for c in counts if len(c) == 1)
    parts = sorted((p for p in counts if len(p) > 1), key=lambda p: (-counts[p] * len(p), p))
    return [(p, counts[p]) for p in [*characters, *parts[: size - len(characters)]]]


def wordpiece(special, size=190, lower=True):
    split = lambda text: [w for w, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)]
    normal = normalizers.BertNormalizer(lowercase=lower)
    words = [w for line in CORPUS for w in split(normal.normalize_str(line))]
    marked = [p for p, _ in frequent(words, (size - len(special)) // 2)]
    whole = sorted({w for w in words if w not in marked})[: size - len(special) - 2 * len(marked)]
    return {t: i for i, t in enumerate([*special, *marked, *(f"##{p}" for p in marked), *whole])}


BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert_tokenizer(max_length, cls=transformers.BertTokenizer, lower=True, size=190):
    return cls(vocab=wordpiece(BERT_SPECIAL, size, lower), do_lower_case=lower, model_max_length=max_length)


def mpnet_tokenizer(max_length):
    vocab = wordpiece(["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"])
    return transformers.MPNetTokenizer(vocab=vocab, model_max_length=max_length)


def byte_level(special, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def roberta_tokenizer(max_length):
    model = json.loads(byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], 300).to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    return transformers.RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=max_length)


def modernbert_tokenizer(max_length):
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer = byte_level(special, 290)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    ids = [(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        pad_token="[PAD]", mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    )


def xlm_tokenizer(max_length):
    words = ["▁" + w for line in CORPUS for w in line.split()]
    pieces = frequent(words, 196)
    total = sum(n for _, n in pieces)
    scored = [(p, round(math.log(n / total) * (0.6 if len(p) > 1 else 1.0), 4)) for p, n in pieces]
    special = [(t, 0.0) for t in ("<s>", "<pad>", "</s>", "<unk>")]
    return transformers.XLMRobertaTokenizer(vocab=[*special, *scored, ("<mask>", 0.0)], model_max_length=max_length)
