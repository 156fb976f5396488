#!/usr/bin/env python3
"""Copies golden fixtures into testdata/golden, leaving out what the tests do not read.

Usage: copy_fixtures.py SOURCE_DIR TARGET_DIR NAME...

A fixture is a tiny random checkpoint (config.json, model.safetensors) and golden.safetensors, what a
float64 numpy implementation of the published equations computes on it. Dropped are the logits of the
official_* presets: the tests know their mean errors as numbers.
"""
import json
import os
import shutil
import struct
import sys


def read(path):
    with open(path, "rb") as file:
        blob = file.read()
    size = struct.unpack("<Q", blob[:8])[0]
    return json.loads(blob[8:8 + size]), blob[8 + size:]


def main():
    source, target, names = sys.argv[1], sys.argv[2], sys.argv[3:]
    for name in names:
        os.makedirs(os.path.join(target, name), exist_ok=True)
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(os.path.join(source, name, file), os.path.join(target, name, file))
        header, data = read(os.path.join(source, name, "golden.safetensors"))
        kept, chunks, offset = {}, [], 0
        for key, info in header.items():
            if key == "__metadata__" or key.startswith("official") or key.startswith("mtp"):
                continue
            begin, end = info["data_offsets"]
            kept[key] = dict(info, data_offsets=[offset, offset + end - begin])
            chunks.append(data[begin:end])
            offset += end - begin
        text = json.dumps(kept, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(target, name, "golden.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + b"".join(chunks))


if __name__ == "__main__":
    main()
