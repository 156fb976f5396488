#!/usr/bin/env python3
"""Makes data/demo: a text of GSM8K problems and a byte-level BPE tokenizer of 4096 ids for it.

Usage: make_demo_data.py GSM8K_TRAIN.jsonl OUTPUT_DIR   (needs `tokenizers` from PyPI)

The tokenizer has DeepSeek V3's pre-tokeniser and the first added tokens of its chat format, so that
the demo models (vocab_size 4096) speak through the same code as the real ones.
"""
import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 4096
TEXT_BYTES = 48 * 1024
SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<think>", "</think>",
           "<｜User｜>", "<｜Assistant｜>"]
DIGITS = r"\p{N}{1,3}"
CJK = "[一-龥぀-ゟ゠-ヿ]+"
WORDS = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
         r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def main():
    source, output = sys.argv[1:3]
    with open(source, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    problems = ["Question: %s\nAnswer: %s\n\n" % (row["question"], row["answer"]) for row in rows]
    text = ""
    for problem in problems:
        if len(text.encode()) + len(problem.encode()) > TEXT_BYTES:
            break
        text += problem
    os.makedirs(output, exist_ok=True)
    with open(os.path.join(output, "gsm8k.txt"), "w", encoding="utf-8") as file:
        file.write(text)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in (DIGITS, CJK, WORDS)]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.train_from_iterator(problems, trainer)
    with open(os.path.join(output, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump(json.loads(tokenizer.to_str()), file, ensure_ascii=False, separators=(",", ":"))
    print("text: %d bytes, %d tokens" % (len(text.encode()), len(tokenizer.encode(text).ids)))


if __name__ == "__main__":
    main()
