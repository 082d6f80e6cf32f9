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
        if kind == "redis-dump":
            add(corpus, "redis_dump", path.stem, b"\0" + payload)
            continue
        if kind in ("redis-part", "redis-order"):
            add(corpus, "redis_stored", path.stem, bytes([0] if kind == "redis-part" else [3, 20]) + payload)
            if "column" in headers:
                column = base64.b64decode(headers["column"])
                add(corpus, "redis_stored", path.stem + "-column", b"\2" + column)
            continue
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
    dump = (b"\xfa\x05ctime\xc2\x01\x02\x03\x04\xfe\x00\xfb\x03\x01\x00\x01a\x02xy\xfc\x01\x02\x03\x04\x05\x06\x07\x08"
            b"\x04\x01h\x02\x01g\x01w\x01f\x01v\xf8\x05\x02\x01s\x02\xc0\x07\x01m\xfe\x03\x12\x01l\x01\x02\x03abc"
            b"\x07\x01m\x05\x02\x09\x05\x01q\x00\x00\x01z\xc3\x09\x40\x64\x01aa\xe0\x57\x00\x01aa\xff" + bytes(8))
    streams = (b"\x15\x01s\x01\x10" + bytes(16) + b"\x03abc\x01\x01\x01\x01\x01\x00\x00\x01\x01\x01g\x01\x01\x01\x01" + bytes(24)
               + b"\x01\x01\x01c" + bytes(16) + b"\x01" + bytes(16) + b"\x18\x01h" + bytes(8) + b"\x01\x00\x01f\x01v\x16\x01h"
               + b"\x01\x01f\x01v" + bytes(8) + b"\xf3\x01\x01\x01\x01\xf4\x01\x01\x01\xf7\x05\x02\x01\x00\xff" + bytes(8))
    for choice in range(24):
        add(corpus, "redis_dump", "dump%d" % choice, bytes([choice]) + dump)
        add(corpus, "redis_dump", "streams%d" % choice, bytes([choice]) + streams)
    for number, seed in enumerate([
            b"\x00\x09" + dump, b"{\"records\": {\"form\": 1}, \"kind\": \"redis\"}",
            b"{\"version\":1}\n" + bytes(12), b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*1\r\n$5\r\nMULTI\r\n",
            b"$EOF:" + b"a" * 40 + b"\r\nREDIS0009\xff" + bytes(8) + b"a" * 40, b"rediss://u@h:1/?cacert=x"]):
        add(corpus, "redis_stored", "seed%d" % number, bytes([4 + min(max(number - 1, 0), 3)]) + seed)
    # A raw zstd block of one byte, and a skippable frame.
    add(corpus, "small_content", "frame", bytes.fromhex("28b52ffd2001090000") + b"x")
    add(corpus, "small_content", "padding", bytes.fromhex("502a4d1804000000") + bytes(4))
    add(corpus, "sealed", "header", b"age-encryption.org/v1\n-> X25519 " + b"A" * 43 + b"\n" + b"A" * 43 + b"\n--- " + b"A" * 43 + b"\n" + bytes(32))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
