#!/usr/bin/env python3
"""Restores from a Holdfast repository without Holdfast.

Needs Python 3.9, `age` and `zstd`. Uses `ssh-keygen` to check signatures and `b3sum` to check
hashes where they are installed, and says so where not. Writes to TARGET and to a private temporary
directory (set TMPDIR; some decoded packs must fit) which it removes at the end.

  restore.py REPO --identity FILE list
  restore.py REPO --identity FILE restore SNAPSHOT TARGET
  restore.py REPO --identity FILE cat SNAPSHOT NAME > FILE

SNAPSHOT is `latest` or the beginning of an id. NAME is a stream (`stream:shop.sql`) or the path of
a file. Without --identity, age asks for the passphrase. What the format is: format-spec/README.md.
"""
import argparse, base64, collections, glob, hashlib, itertools, json, os, re, shutil, signal, stat, struct
import subprocess, sys, tempfile

NO_PREVIOUS = "0" * 64
OBJECT = re.compile(r"(data/[0-9a-f]{2}|(index|snap|refs)/[0-9a-f]{16}|attest)/[0-9a-f]{64}")
CHUNK_MAX, FRAME_MAX, PACK_MAX, INDEX_MAX, SNAPSHOT_MAX, TEXT_MAX = (
    4 << 20, 8 << 20, 256 << 20, 64 << 20, 16 << 20, 4 << 20)
DECODED_PACKS_KEPT = 6


class Refused(Exception):
    """Something stored is damaged, hostile, missing, or too new."""


def warn(text, said=set()):
    if text not in said:
        said.add(text)
        print("restore.py: " + text, file=sys.stderr)


def need(condition, text):
    if not condition:
        raise Refused(text)


# BLAKE3 (its paper, section 2) and Bech32 (BIP 173): what Python's library lacks.

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
START, END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = (1 << bit for bit in range(7))


def compress(chaining, block, counter, flags):
    words = struct.unpack("<16I", block.ljust(64, b"\0"))
    v = [*chaining, *IV[:4], counter & 0xFFFFFFFF, counter >> 32, len(block), flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(QUARTERS):
            for word, right_d, right_b in ((words[2 * i], 16, 12), (words[2 * i + 1], 8, 7)):
                v[a] = (v[a] + v[b] + word) & 0xFFFFFFFF
                x = v[d] ^ v[a]
                v[d] = (x >> right_d | x << (32 - right_d)) & 0xFFFFFFFF
                v[c] = (v[c] + v[d]) & 0xFFFFFFFF
                x = v[b] ^ v[c]
                v[b] = (x >> right_b | x << (32 - right_b)) & 0xFFFFFFFF
        words = [words[i] for i in ORDER]
    return [v[i] ^ v[i + 8] for i in range(8)]


def subtree(data, key, flags, counter, root):
    if len(data) <= 1024:
        chaining, last = key, max(0, len(data) - 1) // 64
        for n in range(last + 1):
            mark = (START if n == 0 else 0) | (END | root if n == last else 0)
            chaining = compress(chaining, data[64 * n:64 * n + 64], counter, flags | mark)
        return chaining
    left = 1024 << (((len(data) - 1) // 1024).bit_length() - 1)
    children = (subtree(data[:left], key, flags, counter, 0)
                + subtree(data[left:], key, flags, counter + left // 1024, 0))
    return compress(key, struct.pack("<16I", *children), 0, flags | PARENT | root)


def blake3(data, key=IV, flags=0):
    return struct.pack("<8I", *subtree(data, key, flags, 0, ROOT))


def keyed_blake3(key, data):
    return blake3(data, struct.unpack("<8I", key), KEYED)


def derive_key(context, material):
    key = blake3(context.encode(), IV, CONTEXT)
    return blake3(material, struct.unpack("<8I", key), MATERIAL)


def bech32(prefix, data):
    def checksum(values):
        state = 1
        for value in values:
            top, state = state >> 25, (state & 0x1FFFFFF) << 5 ^ value
            for bit, mask in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
                state ^= mask if top >> bit & 1 else 0
        return state ^ 1
    number, spare = int.from_bytes(data, "big"), -8 * len(data) % 5
    count = (8 * len(data) + spare) // 5
    digits = [number << spare >> 5 * (count - 1 - i) & 31 for i in range(count)]
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    check = checksum(expanded + digits + [0] * 6)
    digits += [check >> 5 * (5 - i) & 31 for i in range(6)]
    return prefix + "1" + "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[digit] for digit in digits)


def index_identity(domain_secret):
    return bech32("age-secret-key-", derive_key("holdfast v1 index identity", domain_secret)).upper()


def object_hash(data):
    """Hexadecimal BLAKE3, or None where only slow Python could compute it."""
    if shutil.which("b3sum"):
        out = subprocess.run(["b3sum", "--no-names"], input=data, stdout=subprocess.PIPE, check=True)
        return out.stdout.decode().strip()
    return blake3(data).hex() if len(data) <= 64 << 10 else None


# Decoders: bytes to values. All raise Refused (or an error of json, struct) on what is wrong.

IndexedPack = collections.namedtuple("IndexedPack", "name size lengths ids")


def decode_index(data):
    need(data[:8] == b"HFINDEX1", "not an index segment of a known kind")
    repository, count = struct.unpack_from("<8x32s16xI", data)
    packs, at = {}, 60
    for _ in range(count):
        name, handle, size, kind, frame_count, chunk_count = struct.unpack_from(
            "<32s16sQB3xII", data, at)
        need(kind in (1, 2) and data[at + 57:at + 60] == bytes(3) and size <= PACK_MAX,
             "a pack of an unknown kind or size in the index")
        need(frame_count <= 65536 and chunk_count <= 262144, "too many chunks in an indexed pack")
        frames = struct.unpack_from("<%dI" % (3 * frame_count), data, at + 68)
        at += 68 + 12 * frame_count
        lengths = struct.unpack_from("<%dI" % chunk_count, data, at)
        first = 0
        for raw, chunks in zip(frames[1::3], frames[2::3]):
            part = lengths[first:first + chunks]
            need(chunks == len(part) > 0 and sum(part) == raw <= FRAME_MAX
                 and max(part) <= CHUNK_MAX, "the chunks of an indexed frame do not add up")
            first += chunks
        need(first == chunk_count, "chunks beyond the frames of an indexed pack")
        at += 4 * chunk_count
        packs[handle.hex()] = IndexedPack(name.hex(), size, lengths, data[at:at + 32 * chunk_count])
        at += 32 * chunk_count
    need(at == len(data), "the index segment is cut off or too long")
    return repository.hex(), packs


def octets(record, key):
    if key in record:
        need(key + "64" not in record, key + " is there twice")
        return record[key].encode()
    return base64.b64decode(record[key + "64"], validate=True)


def check_name(name):
    need(0 < len(name) <= 255 and name not in (b".", b"..") and not re.search(b"[/\0]", name),
         "%r is no name a file can have" % name)


def check_runs(refs, packs):
    for run in refs:
        need(len(run) in (3, 5) and 0 <= run[0] < len(packs) and min(run) >= 0 < run[2]
             and run[1] + run[2] <= 262144 and (len(run) == 3 or run[2] == 1), "a bad reference")


def check_node(node, packs):
    need(not any(key.startswith("!") for key in node), "a critical key is not known")
    check_runs(node.get("refs", []), packs)
    need(0 <= node.get("depth", 0) <= 4, "too many levels of lists")
    end = -1
    for offset, length in node.get("holes", []):
        need(end < offset and length > 0 and offset + length <= node["size"], "a bad hole")
        end = offset + length


def header(data, key, value):
    first, _, body = data.partition(b"\n")
    record = json.loads(first)
    need(record.get(key) == value, "not a document of kind %s %d" % (key, value))
    return record, [json.loads(line) for line in body.split(b"\n") if line]


def check_place(place, last):
    directory, name = place
    for component in directory:
        check_name(component)
    check_name(name)
    need(last is None or last < place, "entries are out of order")
    return place


def components(path):
    return path.split(b"/") if path else []


def decode_leaf(data):
    """[((directory components, name), node)] and the table of packs."""
    head, records = header(data, "leaf", 1)
    entries, directory, place = [], None, None
    for record in records:
        if "dir" in record or "dir64" in record:
            directory = components(octets(record, "dir"))
            continue
        need(directory is not None, "an entry without a directory")
        place = check_place((directory, octets(record, "name")), place)
        check_node(record, head["packs"])
        entries.append((place, record))
    return entries, head["packs"]


def decode_index_node(data, level):
    head, records = header(data, "index", level)
    place = None
    for record in records:
        place = check_place((components(octets(record, "dir")), octets(record, "name")), place)
        check_runs([record["ref"]], head["packs"])
    return [record["ref"] for record in records], head["packs"]


def decode_list(data, depth):
    head, _ = header(data, "list", depth)
    check_runs(head["refs"], head["packs"])
    return head["refs"], head["packs"]


def decode_snapshot(data):
    snapshot = json.loads(data)
    need(snapshot.get("snapshot") == 1, "the snapshot is newer than this program")
    need(not any(key.startswith("!") for key in snapshot), "a critical key is not known")
    for root in snapshot["roots"]:
        need(not any(key.startswith("!") for key in root), "a critical key is not known")
        check_node(root["node"], snapshot["packs"])
        if "tree" in root:
            check_runs([root["tree"]], snapshot["packs"])
    return snapshot


def decode_text(data, title):
    """Lines of a signed or key text as (key, rest)."""
    lines = data.decode("utf-8").split("\n")
    need(lines.pop() == "" and lines[0] == title + " v1", "not a " + title + " of version 1")
    pairs = [line.partition(" ")[::2] for line in lines[1:]]
    for key, rest in pairs:
        if key == "crit":
            need(rest == "format 1" or rest.startswith("pack-bytes "), "too new: " + rest)
    return pairs


def data_ranges(node):
    """The parts of a file that are no holes: (offset, length)."""
    at = 0
    for offset, length in node.get("holes", []) + [[node.get("size", 0), 0]]:
        if offset > at:
            yield at, offset - at
        at = offset + length


class Repository:
    def __init__(self, path, identities, temporary, pinned):
        self.path, self.temporary, self.id = path, temporary, pinned
        self.decoded = collections.OrderedDict()
        self.packs, self.by_id = {}, None
        need(self.names("roster/" + 16 * "?"), path + " is no repository: it has no roster")
        for identity in identities:
            need(os.path.exists(identity), identity + " does not exist")
        self.open_operator_keys(identities)
        self.read_rosters()
        self.read_commits()
        self.read_tombstones()

    # Keys and texts

    def names(self, pattern):
        found = sorted(glob.glob(os.path.join(glob.escape(self.path), pattern)))
        return [os.path.relpath(path, self.path) for path in found]

    def private(self, name, text):
        path = os.path.join(self.temporary, name)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        return path

    def load(self, name, limit):
        with open(os.path.join(self.path, name), "rb") as file:
            data = file.read(limit + 1)
        need(len(data) <= limit, name + " is too long")
        return data

    def open_key_file(self, name, identities):
        command = ["age", "-d"] + [word for path in identities for word in ("-i", path)]
        quiet = subprocess.DEVNULL if identities else None
        done = subprocess.run(command + [os.path.join(self.path, name)], stdout=subprocess.PIPE,
                              stderr=quiet)
        return done.stdout if done.returncode == 0 else None

    def open_operator_keys(self, identities):
        reads = []
        for name in self.names("keys/operator-*.age"):
            scrypt = self.load(name, 64 << 10).split(b"\n")[1].startswith(b"-> scrypt ")
            text = self.open_key_file(name, identities) if scrypt == (not identities) else None
            if text is None:
                continue
            lines = decode_text(text, "holdfast-keys")
            repository = dict(lines)["repository"]
            need(self.id in (None, repository), name + " belongs to repository " + repository)
            self.id = repository
            reads += [rest.split(" ")[1] for key, rest in lines if key == "read"]
        need(reads, "no file keys/operator-*.age could be opened with " + (
            "this identity (leave --identity out to be asked for a passphrase)" if identities
            else "a passphrase (give --identity FILE if you have an identity)"))
        self.read_identity = self.private("read", "\n".join(reads) + "\n")
        self.index_identities = {}
        for name in self.names("keys/domain-*.age"):
            text = self.open_key_file(name, [self.read_identity])
            if text is None:
                warn("cannot open " + name)
                continue
            domain, secret = dict(decode_text(text, "holdfast-domain"))["domain"].split(" ")
            identity = index_identity(bytes.fromhex(secret)) + "\n"
            self.index_identities[domain] = self.private("index-" + domain, identity)

    def split_text(self, name):
        data = self.load(name, TEXT_MAX)
        at = data.find(b"\n-----BEGIN SSH") + 1
        need(at > 0, name + " is not signed")
        return data, data[:at], data[at:]

    def is_signed(self, kind, message, signature, key):
        if key is None:
            return False
        if not shutil.which("ssh-keygen"):
            warn("no ssh-keygen on PATH: signatures are NOT checked")
            return True
        signers = self.private("signers", "holdfast %s\n" % key)
        signature = self.private("signature", signature.decode("ascii"))
        return subprocess.run(
            ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "holdfast", "-n",
             "holdfast.%s@v1" % kind, "-s", signature], input=message,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    def check_link(self, name, fields, seq, previous):
        need(fields["repository"] == self.id, name + " belongs to another repository")
        need(fields["seq"] == str(seq) and name.endswith("/%016x" % seq), name + " has another seq")
        if previous is not None and fields["prev"] != previous:
            warn(name + " does not follow the one before: something was removed or replaced")

    def read_rosters(self):
        previous = NO_PREVIOUS
        for seq, name in enumerate(self.names("roster/" + 16 * "?"), 1):
            data, message, signature = self.split_text(name)
            lines = decode_text(message, "holdfast-roster")
            root = dict(lines)["root"]
            key = base64.b64decode(root.split(" ")[1])[-32:]
            need(blake3(key).hex() == self.id, name + " has a root key of another repository")
            need(self.is_signed("roster", message, signature, root),
                 name + " has a wrong signature")
            self.check_link(name, dict(lines), seq, previous)
            previous = object_hash(data)
            # Only the newest roster counts, for the fences of a promotion too.
            begun = dict(lines).get("generation", "1 since 0").split(" since ")
            self.since = int(begun[1])
            self.fences = dict(rest.split(" ") for kind, rest in lines if kind == "fence")
            self.fences["tomb"] = dict(lines).get("fence-tombstone", "0")
            self.actors = {rest.split(" ")[0]: (kind, rest.split(" ")) for kind, rest in lines
                           if kind in ("writer", "maintainer")}

    def check_fence(self, log, seq, fields):
        """What the lost primary of an earlier generation wrote alone does not count."""
        need(int(fields["roster"].split(" ")[0]) >= self.since
             or seq <= int(self.fences.get(log, "0")), "it was written before a promotion")

    def key_of(self, actor, seq, kinds):
        kind, words = self.actors.get(actor, (None, ()))
        if kind not in kinds:
            return None
        if kind == "writer" and not int(words[6]) <= seq <= int((words[8:9] or [seq])[0]):
            return None
        return " ".join(words[1:3])

    def each(self, pattern, read):
        """One bad text costs itself only: what it does not name is not restored."""
        for name in self.names(pattern):
            try:
                data, message, signature = self.split_text(name)
                read(name, data, message, signature)
            except (Refused, ValueError, KeyError) as error:
                warn("%s is left out: %s" % (name, error))

    def read_commits(self):
        """Index segments and snapshots of every commit that counts."""
        self.snapshots, self.index_names, self.heads = {}, [], {}
        self.each("log/*/*", self.read_commit)

    def read_commit(self, name, data, message, signature):
        writer, seq = name.split("/")[1], int(name.split("/")[2], 16)
        key = self.key_of(writer, seq, ("writer", "maintainer"))
        need(self.is_signed("commit", message, signature, key), "signed by nobody who may")
        lines = decode_text(message, "holdfast-commit")
        fields = dict(lines)
        need(fields["writer"] == writer, "it names another writer")
        self.check_fence(writer, seq, fields)
        last, link = self.heads.get(writer, (0, NO_PREVIOUS))
        self.check_link(name, fields, seq, link if seq == last + 1 else "?")
        self.heads[writer] = seq, object_hash(data)
        for key, rest in lines:
            put = rest.split(" ")[0]
            if key == "put" and OBJECT.fullmatch(put) and put.startswith("index/"):
                self.index_names.append(put)
            if key == "snapshot" and OBJECT.fullmatch(put) and put.startswith("snap/"):
                self.snapshots[put] = {"time": fields["time"], "writer": writer, "seq": seq}

    def read_tombstones(self):
        self.forgotten = set()
        self.each("tomb/*", self.read_tombstone)

    def read_tombstone(self, name, _, message, signature):
        lines = decode_text(message, "holdfast-tombstone")
        seq, maintainer = int(name.split("/")[1], 16), dict(lines)["maintainer"]
        key = self.key_of(maintainer, seq, ("maintainer",))
        need(self.is_signed("tombstone", message, signature, key), "signed by nobody who may")
        self.check_link(name, dict(lines), seq, None)
        self.check_fence("tomb", seq, dict(lines))
        for key, rest in lines:
            if key == "forget":
                self.forgotten.add(rest.split(" ")[0])
            elif key == "recall":
                self.forgotten.discard(rest)

    # Sealed objects

    def unseal(self, name, identity, bytes_max, out=None):
        """age -d | zstd -d: the content, at most so many bytes, or its length where `out` is given."""
        pipe = subprocess.PIPE
        path = os.path.join(self.path, name)
        need(os.path.exists(path), name + " is missing")
        age = subprocess.Popen(["age", "-d", "-i", identity, path], stdout=pipe, stderr=pipe)
        zstd = subprocess.Popen(["zstd", "-dcq"], stdin=age.stdout, stdout=pipe, stderr=pipe)
        age.stdout.close()
        parts, length = [], 0
        for part in iter(lambda: zstd.stdout.read(1 << 20), b""):
            length += len(part)
            if length > bytes_max:
                age.kill(), zstd.kill()
                raise Refused("%s holds more than %d bytes" % (name, bytes_max))
            parts.append(part) if out is None else out.write(part)
        complaint = age.stderr.read() + zstd.stderr.read()
        codes = age.wait(), zstd.wait()
        need(codes == (0, 0), "%s cannot be opened: %s" % (name, complaint.decode(errors="replace")))
        return b"".join(parts) if out is None else length

    def check_object_name(self, name):
        if not shutil.which("b3sum"):
            warn("no b3sum on PATH: hashes of objects and contents are NOT checked (age does check"
                 " that nothing was altered)")
            return
        with open(os.path.join(self.path, name), "rb") as file:
            out = subprocess.run(["b3sum", "--no-names"], stdin=file, stdout=subprocess.PIPE)
        need(out.stdout.decode().strip() == name.split("/")[-1], name + " is not what its name says")

    def load_index(self):
        for name in self.index_names:
            identity = self.index_identities.get(name.split("/")[1])
            try:
                need(identity is not None, "no key of its domain")
                repository, packs = decode_index(self.unseal(name, identity, INDEX_MAX))
                need(repository == self.id, "it belongs to another repository")
                self.packs.update(packs)
            except (Refused, struct.error) as error:
                warn("index %s is left out: %s" % (name, error))

    def snapshot(self, name):
        snapshot = decode_snapshot(self.unseal(name, self.read_identity, SNAPSHOT_MAX))
        outer = {**self.snapshots[name], "repository": self.id}
        for key in ("repository", "writer", "seq"):
            need(snapshot[key] == outer[key], "%s has another %s than its commit" % (name, key))
        return snapshot

    def age_of(self, name):
        """Orders snapshots: by claimed time, and within a second by place in the log."""
        return self.snapshots[name]["time"].rstrip("Z"), self.snapshots[name]["seq"]

    def find(self, wanted):
        """Name of a snapshot object."""
        listed = [name for name in self.snapshots if name not in self.forgotten]
        if wanted == "latest":
            need(listed, "there is no snapshot")
            return max(listed, key=self.age_of)
        found = [name for name in self.snapshots if name.split("/")[2].startswith(wanted)]
        need(len(found) == 1, "%d snapshots begin with %s" % (len(found), wanted))
        if found[0] in self.forgotten:
            warn("snapshot %s was forgotten; some of it may be gone" % wanted)
        return found[0]

    # Content

    def pack_path(self, pack):
        return os.path.join(self.path, "data", pack.name[:2], pack.name)

    def locate(self, handle, ordinal):
        """The pack that has the chunk now: after a repack, the one that has its id."""
        pack = self.packs.get(handle)
        need(pack is not None, "no index knows pack " + handle)
        need(ordinal < len(pack.lengths), "pack %s has no chunk %d" % (handle, ordinal))
        if handle in self.decoded or os.path.exists(self.pack_path(pack)):
            return handle, ordinal
        if self.by_id is None:
            self.by_id = {
                other.ids[32 * i:32 * i + 32]: (number, i)
                for number, other in self.packs.items() if os.path.exists(self.pack_path(other))
                for i in range(len(other.lengths))}
        found = self.by_id.get(pack.ids[32 * ordinal:32 * ordinal + 32])
        need(found is not None, "chunk %d of pack %s is in no pack" % (ordinal, pack.name))
        return found

    def decode_pack(self, handle):
        if handle in self.decoded:
            self.decoded.move_to_end(handle)
            return self.decoded[handle]
        while len(self.decoded) >= DECODED_PACKS_KEPT:
            self.decoded.popitem(last=False)[1][0].close()
        pack = self.packs[handle]
        name, length = "data/%s/%s" % (pack.name[:2], pack.name), sum(pack.lengths)
        self.check_object_name(name)
        file = tempfile.TemporaryFile(dir=self.temporary)
        found = self.unseal(name, self.read_identity, length, file)
        need(found == length, "%s holds %d bytes where %d were expected" % (name, found, length))
        offsets = [0, *itertools.accumulate(pack.lengths)]
        self.decoded[handle] = file, offsets
        return file, offsets

    def chunks(self, run, packs):
        """The plaintext of each chunk of a reference, or the slice of its one chunk."""
        for ordinal in range(run[1], run[1] + run[2]):
            handle, place = self.locate(packs[run[0]], ordinal)
            file, offsets = self.decode_pack(handle)
            start, end = offsets[place], offsets[place + 1]
            if len(run) == 5:
                need(run[3] + run[4] <= end - start, "a slice ends beyond its chunk")
                start, end = start + run[3], start + run[3] + run[4]
            file.seek(start)
            yield file.read(end - start)

    def content(self, refs, packs, depth):
        for run in refs:
            for chunk in self.chunks(run, packs):
                if depth == 0:
                    yield chunk
                else:
                    yield from self.content(*decode_list(chunk, depth - 1), depth - 1)

    def pieces(self, node, packs):
        """(offset in the file, bytes), holes left out; checks length and hash at the end."""
        hasher = None
        if "hash" in node and shutil.which("b3sum"):
            hasher = subprocess.Popen(["b3sum", "--no-names"], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE)
        ranges, at, left = data_ranges(node), 0, 0
        for chunk in self.content(node.get("refs", []), packs, node.get("depth", 0)):
            if hasher:
                hasher.stdin.write(chunk)
            while chunk:
                if left == 0:
                    at, left = next(ranges, (0, 0))
                    need(left, "the content is longer than the file")
                part, chunk = chunk[:left], chunk[left:]
                yield at, part
                at, left = at + len(part), left - len(part)
        need(left == 0 and next(ranges, None) is None, "the content is shorter than the file")
        if hasher:
            found = hasher.communicate()[0].decode().strip()
            need(found == node["hash"], "the content has hash %s, not %s" % (found, node["hash"]))

    def entries(self, ref, packs, level):
        """All entries of a tree in order: (directory components, name), node, table of packs."""
        for chunk in self.chunks(ref, packs):
            if level == 0:
                entries, table = decode_leaf(chunk)
                for place, node in entries:
                    yield place, node, table
            else:
                refs, table = decode_index_node(chunk, level)
                for child in refs:
                    yield from self.entries(child, table, level - 1)

    def tree(self, root, packs):
        need(root["levels"] <= 16, "the tree has too many levels")
        return self.entries(root["tree"], packs, root["levels"]) if "tree" in root else iter(())


# Dumps of Redis and Valkey that are stored as records: format-spec/redis.md.

STREAM_HEAD = [("t", "t"), "n", "n", "n"]
SEEN = ["n", "n", "n", "n", "n"]
PENDING = ((24, "n"), ("t", 8, (16,)))
PENDING_3 = ((24, "n"), ("t", 16, (16,)))
SENT = ["n", "n", ("t", ("t", "n", "n")), "n", "n"]
# t: text, n: number, s: score, m: what a module wrote, a number: so many bytes, (…): a count and so
# many of these, [[…], (…)]: a count, the first ones, and so many of the others, {…}: a number, and
# what follows it.
VALUES = dict.fromkeys([0, 9, 10, 11, 12, 13, 16, 17, 20], ["t"])
VALUES.update(dict.fromkeys([1, 14], [("t",)]))
VALUES.update({
    2: [("t",)], 3: [("t", "s")], 4: [("t", "t")], 5: [("t", 8)], 7: ["n", "m"], 18: [("n", "t")],
    15: STREAM_HEAD + [("t", "n", "n") + PENDING],
    19: STREAM_HEAD + SEEN + [("t", "n", "n", "n") + PENDING],
    21: STREAM_HEAD + SEEN + [("t", "n", "n", "n") + PENDING_3]})
STREAM = STREAM_HEAD + SEEN
VALUES_OF = {"redis": {**VALUES, 24: [8, ("n", "t", "t")], 25: [8, "t"], 30: ["t"],
                       26: STREAM + [("t", "n", "n", "n") + PENDING_3] + SENT,
                       27: STREAM + [("t", "n", "n", "n") + PENDING_3 + ((16,),)] + SENT,
                       28: [[[{0: [], 1: ["n"]}], ("n", {0: ["t"], 1: [8], 2: [8], 3: ["t"]})]]},
             "valkey": {**VALUES, 22: [("t", "t", 8)]}}
TABLES = {2, 4, 22, 24}


def number_at(data, at):
    first = data[at]
    if first < 0x40:
        return first, at + 1
    if first < 0x80:
        return int.from_bytes(data[at:at + 2], "big") & 0x3FFF, at + 2
    need(first in (0x80, 0x81), "no number where one should be")
    end = at + (5 if first == 0x80 else 9)
    return int.from_bytes(data[at + 1:end], "big"), end


def text_end(data, at):
    first = data[at]
    if 0xC0 <= first <= 0xC2:
        return at + (2, 3, 5)[first - 0xC0]
    if first == 0xC3:
        packed, at = number_at(data, at + 1)
        return number_at(data, at)[1] + packed
    length, at = number_at(data, at + (first == 0xC4))
    return at + length


def parts_of(steps, data, at):
    """(is it a text, start, end) of each part of a value; returns where the value ends."""
    for step in steps:
        if step == "t":
            end = text_end(data, at)
        elif step == "n":
            end = number_at(data, at)[1]
        elif step == "s":
            end = at + 1 + (data[at] if data[at] < 253 else 0)
        elif isinstance(step, int):
            end = at + step
        elif step == "m":
            mark = None
            while mark != 0:
                start = at
                mark, at = number_at(data, at)
                need(mark <= 5, "a module wrote something unknown")
                at = at if mark == 0 else (number_at(data, at)[1] if mark < 3 else
                                           text_end(data, at) if mark == 5 else at + 4 * (mark - 2))
                yield False, start, at
            continue
        else:
            count, end = number_at(data, at)
            yield False, at, end
            if isinstance(step, dict):
                need(count in step, "a value holds something unknown")
                step, count = step[count], 1
            elif isinstance(step, list):
                end = yield from parts_of(step[0], data, end)
                step = step[1]
            for _ in range(count):
                end = yield from parts_of(step, data, end)
            at = end
            continue
        need(end <= len(data), "a value is cut off")
        yield step == "t", at, end
        at = end
    return at


def end_of(steps, data, at):
    for _, _, at in parts_of(steps, data, at):
        pass
    return at


def original(steps, data, start, end):
    """The bytes of some parts as the server wrote them."""
    return b"".join(original_text(data[a:b]) if text else data[a:b]
                    for text, a, b in parts_of(steps, data[:end], start))


def original_text(text):
    if text[0] != 0xC4:
        return text
    plain = text[number_at(text, 1)[1]:]
    packed = lzf(plain)
    return b"\xc3" + put_number(len(packed)) + put_number(len(plain)) + packed


def put_number(value):
    if value < 0x40:
        return bytes([value])
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    return b"\x80" + value.to_bytes(4, "big") if value < 1 << 32 else b"\x81" + value.to_bytes(8, "big")


def lzf(data):
    """LZF as the servers compress (LibLZF 3.6, 16 bits of hash)."""
    out, table, at, literals, size = bytearray(), {}, 0, 0, len(data)

    def flush(end):
        for start in range(end - literals, end, 32):
            out.append(min(32, end - start) - 1)
            out.extend(data[start:min(end, start + 32)])

    def exchange(at):
        triple = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
        slot = (triple >> 8) - triple * 5 & 0xFFFF
        before, table[slot] = table.get(slot, 0), at
        return before
    while at + 2 < size:
        before = exchange(at)
        if not (before and at - before <= 8192 and data[before:before + 3] == data[at:at + 3]):
            at, literals = at + 1, literals + 1
            continue
        flush(at)
        length, longest = 3, min(size - at - 2, 264)
        while length < longest and data[before + length] == data[at + length]:
            length += 1
        distance, literals = at - before - 1, 0
        if length < 9:
            out.append(distance >> 8 | length - 2 << 5)
        else:
            out += bytes([distance >> 8 | 0xE0, length - 9])
        out.append(distance & 0xFF)
        at += length
        if at + 2 >= size:
            break
        exchange(at - 2), exchange(at - 1)
    literals += size - at
    flush(size)
    return bytes(out)


def crc64(parts):
    """The sum at the end of a dump."""
    table, value = [], 0
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x95AC9329AC4BC9B5 if byte & 1 else 0)
        table.append(byte)
    for part in parts:
        for byte in part:
            value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value


class Bits:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, bits):
        need(self.at + bits <= 8 * len(self.data), "bits are cut off")
        at, self.at = self.at, self.at + bits
        first = self.data[at >> 3:(self.at + 7) >> 3]
        return int.from_bytes(first, "little") >> (at & 7) & (1 << bits) - 1


class Dump:
    """A dump that is stored as records; held in memory, several times its length."""

    def __init__(self, repository, root, packs):
        self.repository, self.facts = repository, root["facts"]["records"]
        need(self.facts["form"] == 1, "the dump is stored in a newer form")
        need(self.facts.get("order", "server") in ("server", "keys"), "the dump has a newer order")
        self.values, self.salt = VALUES_OF[self.facts["dialect"]], bytes.fromhex(self.facts["salt"])
        self.files = {name.decode(): (node, table)
                      for (_, name), node, table in repository.tree(root, packs)}

    def read(self, name):
        need(name in self.files, "the dump has no part " + name)
        return b"".join(part for _, part in self.repository.pieces(*self.files[name]))

    def hash(self, kind, database, key, field=b""):
        data = self.salt + bytes([kind]) + database.to_bytes(8, "little") + key + field
        return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")

    def column(self, data):
        """What stands apart from each record of a part: (before the type, order of elements)."""
        at, made = 0, self.facts["made"]
        while at < len(data):
            count, kinds = data[at], data[at + 1]
            at += 2
            each = data[at:at + count] if kinds else bytes(count)
            at += count if kinds else 0
            before = [bytearray() for _ in each]

            def values(bit, width):
                nonlocal at
                with_it = [i for i, has in enumerate(each) if has & bit]
                planes = data[at:at + width * len(with_it)]
                at += len(planes)
                return [(i, planes[place::len(with_it)]) for place, i in enumerate(with_it)]
            for bit, mark, width in ((1, 252, 8), (2, 253, 4)):
                for i, value in values(bit, width):
                    before[i] += bytes([mark]) + value
            for i, value in values(4, 4):
                idle = made - int.from_bytes(value, "little") & 0xFFFFFFFF
                before[i] += b"\xf8" + put_number(idle)
            for i, value in values(8, 1):
                before[i] += b"\xf9" + value
            for i, has in enumerate(each):
                if has & 16:
                    length, at = number_at(data, at)
                    before[i] = data[at:at + length]
                    at += length
            orders = [None] * count
            for i, has in enumerate(each):
                if has & 32:
                    length, at = number_at(data, at)
                    width = (length - 1).bit_length()
                    bits = Bits(data[at:at + (length * width + 7) // 8])
                    at += (length * width + 7) // 8
                    orders[i] = [bits.take(width) for _ in range(length)]
            yield from zip(before, orders)

    def atoms(self, part):
        """(hash, bytes in the dump, what it is sorted by) of each atom of a part."""
        suffix = "%02d.%04d" % (self.facts["part_bits"], part)
        data, column = self.read("records." + suffix), self.column(self.read("column." + suffix))
        at, database, table = 0, 0, None
        while at < len(data):
            mark, at = data[at], at + 1
            if mark == 0xE0:
                (database, at), table = number_at(data, at), None
                continue
            if mark == 0xE1:
                end = text_end(data, at + 1)
                table, at = (data[at], data[at + 1:end]), end
                continue
            before, order = next(column, (b"", None))
            if mark == 0xE2:
                steps = self.values[table[0]][-1]
                parts = list(parts_of(steps, data, at))
                _, start, end = next(part for part in parts if part[0])
                name = self.hash(1, database, table[1], data[start:end])
                place = database.to_bytes(8, "big") + table[1] + b"\2"
                yield name, original(steps, data, at, parts[-1][2]), place
                at = parts[-1][2]
                continue
            kind, at, sort = (data[at], at + 1, b"\1") if mark == 0xE3 else (mark, at, b"\0")
            steps, value = self.values[kind], text_end(data, at)
            key = data[at:value]
            if mark == 0xE3:
                at = number_at(data, end_of(steps[:-1], data, value))[1]
                body = data[value:at]
            else:
                at = end_of(steps, data, value)
                body = self.value(kind, data[value:at], order)
            body = bytes(before) + bytes([kind]) + original_text(key) + body
            yield self.hash(0, database, key), body, database.to_bytes(8, "big") + key + sort

    def value(self, kind, data, order):
        steps = self.values[kind]
        if order is None:
            return original(steps, data, 0, len(data))
        first = end_of(steps[:-1], data, 0)
        count, at = number_at(data, first)
        out, elements = original(steps[:-1], data, 0, first) + data[first:at], []
        for _ in range(count):
            end = end_of(steps[-1], data, at)
            elements.append(original(steps[-1], data, at, end))
            at = end
        return out + b"".join(elements[place] for place in order)

    def between(self):
        """(atoms before, bytes) of what lies between the atoms."""
        frame, at = self.read("frame"), 0
        while at < len(frame):
            atoms, at = number_at(frame, at)
            length, at = number_at(frame, at)
            need(at + length <= len(frame), "the frame is cut off")
            yield atoms, frame[at:at + length]
            at += length

    def by_keys(self, hashed):
        """The bytes of a dump that is sorted by its keys."""
        hashed(self.read("frame"))
        frame, atoms = b"".join(data for _, data in self.between()), []
        for part in range(1 << self.facts["part_bits"]):
            for _, data, place in self.atoms(part):
                hashed(data)
                atoms.append((place, data))
        need(len(atoms) == self.facts["atoms"] and frame[-9:-8] == b"\xff", "the dump has other parts")
        selected, out = None, [frame[:-9]]
        for place, data in sorted(atoms):
            if place[:8] != selected:
                selected = place[:8]
                out.append(b"\xfe" + put_number(int.from_bytes(selected, "big")))
            out.append(data)
        out.append(b"\xff")
        yield from out
        yield crc64(out).to_bytes(8, "little") if any(frame[-8:]) else bytes(8)

    def as_sent(self):
        """The bytes of the dump, in order."""
        bits, ties, queues = self.facts["order_bits"], Bits(self.read("ties")), {}
        for part in range(1 << self.facts["part_bits"]):
            atoms = sorted(enumerate(self.atoms(part)), key=lambda atom: (atom[1][0], atom[0]))
            for prefix, group in itertools.groupby(atoms, lambda atom: atom[1][0] >> 64 - bits):
                group = [data for _, (_, data, _) in group]
                width = (len(group) - 1).bit_length()
                queues[prefix] = iter([group[ties.take(width)] for _ in group])
        order = self.order(bits)
        for atoms, data in self.between():
            for prefix in itertools.islice(order, atoms):
                yield next(queues[prefix])
            yield data

    def order(self, bits):
        for number in range(self.facts["order_files"]):
            data, at = self.read("order.%04d" % number), 0
            while at < len(data):
                end = at + 1 + (data[at] * bits + 7) // 8
                block = Bits(data[at + 1:end])
                yield from [block.take(bits) for _ in range(data[at])]
                at = end

    def write(self, file):
        length, keys = 0, self.facts.get("order") == "keys"
        hasher = shutil.which("b3sum") and subprocess.Popen(
            ["b3sum", "--no-names"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        hashed = hasher.stdin.write if hasher else len
        for part in self.by_keys(hashed) if keys else self.as_sent():
            file.write(part)
            length += len(part)
            keys or hashed(part)
        need(length == self.facts["bytes"], "the dump has %d bytes" % length)
        need(not hasher or hasher.communicate()[0].decode().strip() == self.facts["hash"],
             "the dump has another hash")


class Restorer:
    """Writes below one directory: every path is walked from its descriptor, never through links."""

    def __init__(self, repository, target, special):
        self.repository, self.special, self.failures = repository, special, 0
        os.makedirs(target, exist_ok=True)
        self.top = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        need(not os.listdir(self.top), target + " is not empty")
        self.directories, self.current = [], (None, None)

    def directory(self, path):
        """A descriptor of a directory that was made here; the last one is kept open."""
        if self.current[0] != path:
            fd = os.dup(self.top)
            for name in path:
                following = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = following
            if self.current[1] is not None:
                os.close(self.current[1])
            self.current = list(path), fd
        return self.current[1]

    def attempt(self, what, action, *arguments):
        try:
            action(*arguments)
        except (Refused, OSError, ValueError, LookupError, TypeError, struct.error) as error:
            self.failures += 1
            warn("%s: %s" % (os.fsdecode(what), error))

    def root(self, root, packs):
        path = [name for name in octets(root, "path").split(b"/") if name]
        node, is_dump = root["node"], "records" in root.get("facts", {})
        for name in path:
            check_name(name)
        parents = path if node["type"] == "dir" and not is_dump else path[:-1]
        for depth in range(len(parents)):
            try:
                os.mkdir(parents[depth], 0o700, dir_fd=self.directory(parents[:depth]))
            except FileExistsError:
                pass
        if is_dump:
            self.attempt(path[-1], self.dump, path[:-1], path[-1], root, packs)
            return
        if node["type"] != "dir":
            self.attempt(path[-1], self.make, path[:-1], path[-1], node, packs, {})
            return
        self.directories.append((path, node))
        links, last = {}, None
        for (directory, name), node, table in self.repository.tree(root, packs):
            last = check_place((directory, name), last)
            whole = b"/".join(path + directory + [name])
            self.attempt(whole, self.make, path + directory, name, node, table, links)

    def dump(self, directory, name, root, packs):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=self.directory(directory)), "wb") as file:
            Dump(self.repository, root, packs).write(file)

    def make(self, directory, name, node, packs, links):
        fd, kind = self.directory(directory), node["type"]
        if "link" in node and node["link"] in links:
            first, first_name = links[node["link"]]
            here = os.dup(fd)
            try:
                os.link(first_name, name, src_dir_fd=self.directory(first), dst_dir_fd=here,
                        follow_symlinks=False)
            finally:
                os.close(here)
            return
        if kind == "dir":
            os.mkdir(name, 0o700, dir_fd=fd)
            self.directories.append((directory + [name], node))
            return
        if kind in ("file", "stream"):
            self.write(fd, name, node, packs)
        elif kind == "symlink":
            os.symlink(octets(node, "target"), name, dir_fd=fd)
        elif kind == "fifo":
            os.mkfifo(name, 0o600, dir_fd=fd)
        elif kind in ("chardev", "blockdev"):
            need(self.special, "devices are made with --special only")
            bits = stat.S_IFCHR if kind == "chardev" else stat.S_IFBLK
            os.mknod(name, bits | 0o600, os.makedev(*node["device"]), dir_fd=fd)
        elif kind == "socket":
            return
        else:
            raise Refused("type %s is not known" % kind)
        if kind != "stream":
            self.attributes(fd, name, node)
        if "link" in node:
            links[node["link"]] = directory, name

    def write(self, fd, name, node, packs):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=fd), "wb") as file:
            for offset, part in self.repository.pieces(node, packs):
                file.seek(offset)
                file.write(part)
            file.truncate(node.get("size", 0))

    def attributes(self, fd, name, node):
        is_link, mode = node["type"] == "symlink", node.get("mode", 0)
        if os.geteuid() == 0:
            os.chown(name, node.get("uid", 0), node.get("gid", 0), dir_fd=fd, follow_symlinks=False)
        if not self.special and not is_link and mode & 0o6000:
            warn("setuid and setgid bits are left out without --special")
            mode &= ~0o6000
        path = b"/proc/self/fd/%d/%s" % (fd, name)
        xattrs = {key.encode(): value for key, value in node.get("xattrs", {}).items()}
        xattrs.update((base64.b64decode(k), v) for k, v in node.get("xattrs64", {}).items())
        for key, value in xattrs.items():
            if key.startswith((b"security.", b"trusted.")) and not self.special:
                warn("attributes security.* and trusted.* are left out without --special")
                continue
            value = base64.b64decode(value)
            self.attempt(name + b" " + key, lambda: os.setxattr(path, key, value, follow_symlinks=False))
        if not is_link:
            os.chmod(name, mode, dir_fd=fd)
        if node.get("flags"):
            warn("attribute flags (chattr) are not restored")
        seconds, nanoseconds = node.get("mtime", (0, 0))
        time = seconds * 10**9 + nanoseconds
        os.utime(name, ns=(time, time), dir_fd=fd, follow_symlinks=False)

    def finish(self):
        for path, node in reversed(self.directories):
            parent, name = (path[:-1], path[-1]) if path else ([], b".")
            self.attempt(b"/".join(path), lambda: self.attributes(self.directory(parent), name, node))


def list_snapshots(repository):
    for name in sorted(repository.snapshots, key=repository.age_of):
        if name in repository.forgotten:
            continue
        try:
            snapshot = repository.snapshot(name)
        except (Refused, ValueError, KeyError) as error:
            print("%.16s  %s" % (name.split("/")[2], error))
            continue
        shown = "%s@%s" % (snapshot["source"], snapshot["host"])
        print("%.16s  %s  %s" % (name.split("/")[2], snapshot["time"], ascii(shown)[1:-1]))
        for root in snapshot["roots"]:
            print("    %s  %d bytes" % (ascii(root["name"])[1:-1], root["bytes"]))
        if snapshot.get("partial"):
            print("    partial: some items could not be read at the source")


def restore(repository, wanted, target, special):
    repository.load_index()
    snapshot = repository.snapshot(repository.find(wanted))
    restorer = Restorer(repository, target, special)
    for root in snapshot["roots"]:
        restorer.attempt(root["name"].encode(), restorer.root, root, snapshot["packs"])
    restorer.finish()
    need(restorer.failures == 0, "%d items were not restored as they were" % restorer.failures)


def find_content(repository, snapshot, name):
    for root in snapshot["roots"]:
        path = octets(root, "path")
        if root["node"]["type"] != "dir":
            if name in (os.fsencode(root["name"]), path):
                return root["node"], snapshot["packs"]
        elif name.startswith(path.rstrip(b"/") + b"/"):
            wanted, firsts = name[len(path.rstrip(b"/")) + 1:].split(b"/"), {}
            for (directory, last), node, packs in repository.tree(root, snapshot["packs"]):
                first = firsts.setdefault(node["link"], (node, packs)) if "link" in node else None
                if directory + [last] == wanted:
                    return first or (node, packs)
    raise Refused("the snapshot has no %s" % os.fsdecode(name))


def cat(repository, wanted, name):
    repository.load_index()
    snapshot = repository.snapshot(repository.find(wanted))
    for root in snapshot["roots"]:
        is_named = os.fsencode(name) in (os.fsencode(root["name"]), octets(root, "path"))
        if "records" in root.get("facts", {}) and is_named:
            Dump(repository, root, snapshot["packs"]).write(sys.stdout.buffer)
            return
    node, packs = find_content(repository, snapshot, os.fsencode(name))
    need(node["type"] in ("file", "stream"), name + " is no file and no stream")
    at, out = 0, sys.stdout.buffer

    def fill(to):
        for start in range(at, to, 1 << 20):
            out.write(bytes(min(1 << 20, to - start)))
    for offset, part in repository.pieces(node, packs):
        fill(offset)
        out.write(part)
        at = offset + len(part)
    fill(node.get("size", 0))
    out.flush()


def check_chunk_ids(payload):
    fields = dict(line.split(" ", 1) for line in payload.decode().splitlines())
    secret, plaintext = bytes.fromhex(fields["secret"]), bytes.fromhex(fields["plaintext"])
    for kind in ("data", "tree"):
        key = derive_key("holdfast v1 chunk id " + kind, secret)
        need(keyed_blake3(key, plaintext).hex() == fields[kind], "another chunk id: " + kind)
    need(index_identity(secret) == fields["index-identity"], "another index identity")
    need(blake3(plaintext).hex() == fields["plain-blake3"], "another BLAKE3")


class TestDump(Dump):
    def __init__(self, files, **facts):
        self.files, self.facts = files, {"order_files": 1, "part_bits": 0, **facts}

    def read(self, name):
        return self.files[name.split(".")[0]]


def check_dump_part(payload, fields):
    files = {"records": payload, "column": base64.b64decode(fields["column"])}
    dump = TestDump(files, made=int(fields["made"]))
    dump.values, dump.salt = VALUES_OF[fields["dialect"]], bytes.fromhex(fields["salt"])
    found = b"".join(name.to_bytes(8, "big") + data for name, data, _ in dump.atoms(0))
    need(hashlib.sha256(found).hexdigest() == fields["atoms"], "other atoms")


def check_dump(payload, fields):
    facts = json.loads(fields["facts"])
    files = {name: base64.b64decode(fields[name]) for name in ("frame", "records", "column")}
    dump, hashed = TestDump(files, **facts), bytearray()
    dump.values, dump.salt = VALUES_OF[facts["dialect"]], bytes.fromhex(facts["salt"])
    need(b"".join(dump.by_keys(hashed.extend)) == payload, "another dump")
    need(blake3(bytes(hashed)).hex() == facts["hash"] and len(payload) == facts["bytes"], "other facts")


def self_test(folder):
    """Compares the decoders with the golden vectors."""
    decoders = {
        "index": lambda payload, _: decode_index(payload),
        "leaf": lambda payload, _: decode_leaf(payload),
        "index-node": lambda payload, fields: decode_index_node(payload, int(fields["level"])),
        "list": lambda payload, fields: decode_list(payload, int(fields["depth"])),
        "snapshot": lambda payload, _: decode_snapshot(payload),
        "chunk-ids": lambda payload, _: check_chunk_ids(payload),
        "redis-part": check_dump_part,
        "redis-dump": check_dump,
        "redis-order": lambda payload, fields: list(
            TestDump({"order": payload}).order(int(fields["bits"]))),
    }
    count = 0
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.txt"))):
        with open(path, "rb") as file:
            head, payload = file.read().split(b"\n\n", 1)
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        decoder = decoders.get(fields["object"])
        if decoder is None:
            continue
        if fields.get("encoding") == "base64":
            payload = base64.b64decode(payload)
        try:
            decoder(payload, fields)
            found = "ok"
        except (Refused, ValueError, KeyError, TypeError, IndexError, struct.error) as error:
            found = "refused"
            need(fields["expect"] == found, "%s: %s" % (path, error))
        need(fields["expect"] == found, path + " should be refused")
        count += 1
    need(count >= 20, "only %d vectors in %s" % (count, folder))
    print("%d vectors agree" % count)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", metavar="REPO", nargs="?")
    parser.add_argument("command", nargs="*", help="list | restore SNAPSHOT TARGET | cat SNAPSHOT NAME")
    parser.add_argument("--identity", action="append", default=[], metavar="FILE")
    parser.add_argument("--id", metavar="HEX", help="the repository id that you expect")
    parser.add_argument("--special", action="store_true",
                        help="also devices, setuid bits and security attributes; as root only")
    parser.add_argument("--self-test", metavar="DIR", help="compare with the golden vectors in DIR")
    given = parser.parse_intermixed_args()
    if given.self_test:
        return self_test(given.self_test)
    command, *words = given.command or ["list"]
    if given.repository is None or {"list": 0, "restore": 2, "cat": 2}.get(command) != len(words):
        parser.error("give REPO and one of: list, restore SNAPSHOT TARGET, cat SNAPSHOT NAME")
    for program in ("age", "zstd"):
        need(shutil.which(program), "the program %s is not on PATH" % program)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    temporary = tempfile.mkdtemp(prefix="holdfast-")
    try:
        repository = Repository(given.repository, given.identity, temporary, given.id)
        warn("repository " + repository.id)
        if command == "list":
            list_snapshots(repository)
        elif command == "restore":
            restore(repository, *words, given.special)
        else:
            cat(repository, *words)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    try:
        main()
    except (Refused, OSError, ValueError, KeyError, IndexError) as error:
        sys.exit("restore.py: error: %s" % (error if str(error) else repr(error)))
    except KeyboardInterrupt:
        sys.exit(130)
