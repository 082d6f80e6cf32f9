#!/usr/bin/env python3
"""Makes the first inputs of every fuzz target from the vectors of the format: seeds.py VECTORS CORPUS."""
import base64
import pathlib
import sys

TARGETS = {"pack-footer": "pack_footer", "index": "index_segment", "index-node": "index_node"}
SIGNED = {"roster", "commit", "tombstone", "attestation"}
TEXTS = ["latest", "latest~2:/etc/hosts", "source:shop", "2026-11-23T01:00:00Z", "1.5 GiB", "10 MB/s", "7d12h",
         "data/05/" + "05" * 32, "[repositories.main]\nurl = \"/srv/repo\"\n",
         "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMqTrBcFGHBx1nuDx/8O/oEI6OxFMFdddyaHkzPb2r58"]
KEYS = ["holdfast-keys v1\n", "holdfast-writer v1\n", "holdfast-maintainer v1\n", "holdfast-domain v1\n",
        "holdfast-epoch v1\n"]


def add(corpus, target, name, content):
    (corpus / target).mkdir(parents=True, exist_ok=True)
    (corpus / target / name).write_bytes(content)


def main(vectors, corpus):
    for path in sorted(vectors.glob("*.txt")):
        head, payload = path.read_bytes().split(b"\n\n", 1)
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        if headers.get("encoding") == "base64":
            payload = base64.b64decode(payload)
        kind = headers["object"]
        if kind in SIGNED:
            add(corpus, "signature", path.stem, payload)
            payload = payload.split(b"-----BEGIN")[0]
        if kind in ("index-node", "list"):
            payload = bytes([int(headers.get("level", headers.get("depth")))]) + payload
        if kind not in ("padme", "chunk-ids", "gear", "cut-points"):
            add(corpus, TARGETS.get(kind, kind), path.stem, payload)
    for number, text in enumerate(TEXTS):
        add(corpus, "text", str(number), text.encode())
    for number, text in enumerate(KEYS):
        add(corpus, "key_file", str(number), text.encode())
    seeds = [b"W\0\0\0\x07\0\0\0d\0\0\0\x06ab", b"1\t0/450000\tx\n2\t0/780000\ty\n", bytes(8192),
             b"PGDMP\x01\x0e\0\x04\x08\x01", b"postgres://u@h:1/d?sslmode=require",
             bytes.fromhex("0d1faed30000000005000000"), bytes(range(256)) * 2]
    for number, seed in enumerate(seeds):
        add(corpus, "postgres", str(number), bytes([number]) + seed)
    # A raw zstd block of one byte, and a skippable frame.
    add(corpus, "small_content", "frame", bytes.fromhex("28b52ffd2001090000") + b"x")
    add(corpus, "small_content", "padding", bytes.fromhex("502a4d1804000000") + bytes(4))
    add(corpus, "sealed", "header", b"age-encryption.org/v1\n-> X25519 " + b"A" * 43 + b"\n" + b"A" * 43 + b"\n--- " + b"A" * 43 + b"\n" + bytes(32))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
