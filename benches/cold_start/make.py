"""Writes random models of 150 to 280 million parameters in sentence-transformers' layout.

    python make.py FOLDER --vocab TOKENIZER_JSON                # bert-f32, bert-f16
    python make.py FOLDER --vocab … --pieces 250000           # and xlmr-f32, with a unigram vocabulary

In:  the tokenizer.json of a BERT. Out: folders with the layout, the sizes and the tokeniser of published models
(BERT: 18 layers, 768 wide, 152 M; XLM-R base: 12 layers and 250 k pieces, 278 M); the numbers are random.
Needs torch, transformers, sentence-transformers, tokenizers.
"""

import argparse
import random
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)


def save(model, tokenizer, folder, max_tokens):
    body = folder / "body"
    model.save_pretrained(body)
    tokenizer.save_pretrained(body)
    transformer = Transformer(str(body), max_seq_length=max_tokens)
    whole = SentenceTransformer(modules=[transformer, Pooling(model.config.hidden_size)], device="cpu")
    whole.save_pretrained(str(folder))
    for file in body.iterdir():
        file.unlink()
    body.rmdir()


def bert(folder, vocab, dtype):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(vocab), pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")
    model = BertModel(BertConfig(vocab_size=len(tokenizer), num_hidden_layers=18)).to(dtype)
    save(model, tokenizer, folder, 512)


def xlm_roberta(folder, pieces):
    """Pieces are random words of random letters: as many and as long as in the published vocabulary."""
    letters = "abcdefghijklmnopqrstuvwxyzабвгдежзиклмнопрстуαβγδεηικλμνοπρστ"
    choose, names = random.Random(0), {}
    while len(names) < pieces:
        word = "".join(choose.choices(letters, k=choose.randint(1, 9)))
        names[choose.choice(["▁", ""]) + word] = -5.0 - 15.0 * choose.random()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = [(name, 0.0) for name in special] + list(names.items())
    inner = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        cls_token="<s>", sep_token="</s>")
    config = XLMRobertaConfig(vocab_size=len(vocabulary), max_position_embeddings=514, type_vocab_size=1)
    save(XLMRobertaModel(config), tokenizer, folder, 512)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocab", type=Path, required=True)
    parser.add_argument("--pieces", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(0)
    bert(args.folder / "bert-f32", args.vocab, torch.float32)
    bert(args.folder / "bert-f16", args.vocab, torch.float16)
    if args.pieces:
        xlm_roberta(args.folder / "xlmr-f32", args.pieces)


if __name__ == "__main__":
    main()
