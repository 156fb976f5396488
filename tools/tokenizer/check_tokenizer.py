#!/usr/bin/env python3
"""Compares Causeway's token ids with those of Hugging Face's tokenizers, line by line.

Every text is tokenised twice: with added tokens recognised, and as plain text. tokenizer_lines
itself checks that Decode and the incremental detokeniser give each text back. Ends with an error
if anything differs.
"""
import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import tokenizers

import samples

ROOT = pathlib.Path(__file__).resolve().parents[2]


def collect(arguments, contents):
    """Name of the group -> texts as bytes."""
    groups = collections.OrderedDict()
    if arguments.data and any(pathlib.Path(arguments.data).glob('*.jsonl')):
        groups['GSM8K'] = [t.encode() for t in samples.gsm8k(arguments.data)]
        random_count = 20000
    else:
        lines = (ROOT / 'data/demo/gsm8k.txt').read_text().split('\n')
        groups['GSM8K, demo part'] = [t.encode() for t in lines]
        random_count = 40000
    groups['hand-written'] = [t.encode() for t in samples.handwritten()]
    groups['added tokens'] = [t.encode() for t in samples.special_texts(contents)]
    groups['broken UTF-8'] = list(samples.BROKEN)
    groups['long runs'] = [t.encode() for t in samples.long_texts()]
    groups['random'] = list(samples.generated(random_count, arguments.seed))
    groups['every code point'] = [t.encode() for t in samples.every_code_point()]
    return groups


def committed(contents):
    """The texts of the committed expectations: they need nothing but this directory."""
    texts = [t.encode() for t in samples.handwritten()] + samples.BROKEN
    texts += [t.encode() for t in list(samples.special_texts(contents))[:60]]
    texts += list(samples.generated(110, 7))
    return texts


def ours(arguments, texts):
    """[(ids, plain ids)] of tokenizer_lines."""
    with tempfile.NamedTemporaryFile('w', suffix='.hex') as file:
        for text in texts:
            file.write(text.hex() + '\n')
        file.flush()
        run = subprocess.run([arguments.binary, arguments.tokenizer, file.name], stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f'{arguments.binary} ended with {run.returncode}')
    lines = run.stdout.split('\n')[:-1]
    if len(lines) != len(texts):
        sys.exit(f'{arguments.binary} printed {len(lines)} lines for {len(texts)} texts')
    return [tuple([int(i) for i in half.split()] for half in line.split('|')) for line in lines]


def theirs(full, plain, texts):
    results = []
    for start in range(0, len(texts), 4096):  # their results take much memory while they live
        results += theirs_of_batch(full, plain, texts[start:start + 4096])
    return results


def theirs_of_batch(full, plain, texts):
    decoded = [t.decode('utf-8', 'replace') for t in texts]
    with_added = [e.ids for e in full.encode_batch(decoded, add_special_tokens=False)]
    without = [e.ids for e in plain.encode_batch(decoded, add_special_tokens=False)]
    for text, ids in zip(decoded, with_added):
        if full.decode(ids, skip_special_tokens=False) != text:
            sys.exit(f'Hugging Face does not decode {text!r} back')
    return list(zip(with_added, without))


def read_expected(path):
    for line in pathlib.Path(path).read_text().split('\n'):
        if line:
            entry = json.loads(line)
            text = bytes.fromhex(entry['hex']) if 'hex' in entry else entry['text'].encode()
            yield text, (entry['ids'], entry['plain'])


def write_expected(path, texts, results):
    with open(path, 'w') as file:
        for text, (ids, plain) in zip(texts, results):
            try:
                key, value = 'text', text.decode()
            except UnicodeDecodeError:
                key, value = 'hex', text.hex()
            file.write(json.dumps({key: value, 'ids': ids, 'plain': plain}) + '\n')


def compare(name, texts, found, expected):
    different = [i for i in range(len(texts)) if tuple(found[i]) != tuple(expected[i])]
    print(f'{name:24} {len(texts):7} compared, {len(different)} different', flush=True)
    for i in sorted(different, key=lambda i: len(texts[i]))[:3]:
        print(f'  {texts[i][:200]!r}\n    found    {found[i]}\n    expected {expected[i]}'[:2000])
    return len(different)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--binary', required=True, help='tokenizer_lines of the build')
    parser.add_argument('--tokenizer', required=True, help='tokenizer.json')
    parser.add_argument('--data', help='directory of GSM8K .jsonl files')
    parser.add_argument('--expected', help='committed ids to compare with as well')
    parser.add_argument('--write-expected', help='write this file of ids instead of comparing')
    parser.add_argument('--seed', type=int, default=1)
    arguments = parser.parse_args()

    full = tokenizers.Tokenizer.from_file(arguments.tokenizer)
    description = json.loads(pathlib.Path(arguments.tokenizer).read_text())
    contents = [t['content'] for t in description['added_tokens']]
    # encode_special_tokens would still find the added tokens that are not special.
    plain = tokenizers.Tokenizer.from_str(json.dumps({**description, 'added_tokens': []}))

    if arguments.write_expected:
        texts = committed(contents)
        write_expected(arguments.write_expected, texts, theirs(full, plain, texts))
        return
    print(f'{arguments.tokenizer}, tokenizers {tokenizers.__version__}, seed {arguments.seed}')
    total = different = 0
    for name, texts in collect(arguments, contents).items():
        total += len(texts)
        different += compare(name, texts, ours(arguments, texts), theirs(full, plain, texts))
    if arguments.expected:
        texts, expected = zip(*read_expected(arguments.expected))
        total += len(texts)
        different += compare('committed ids', texts, ours(arguments, texts), expected)
    print(f'{"total":24} {total:7} compared, {different} different')
    sys.exit(1 if different else 0)


if __name__ == '__main__':
    main()
