#!/usr/bin/env python3
"""Redis: redis.py WORK_FOLDER HOLDFAST REDIS_SERVER [--rdb FOLDER] [--runs 3] [--parts sets,lru,network,journal,large]

sets     the dumps r0, r1 (1.5 % changed), r2 (restarted) of `make-data` in --rdb FOLDER, by Holdfast as they are
         and canonical, and by restic and borg where they are installed; restored and compared
lru      the same data under an LRU policy: reads in between, then a restart
network  the same data over the replication protocol, beside `redis-cli --rdb`
journal  redis-benchmark at full rate, alone and followed by `redis stream`: its rate, how long until all is durable,
         whether we were cut off, and what the newest moment gives back
large    a dump of 4 GB that is written here, and again with 1 % of it changed: peak memory
Medians; wall and CPU seconds, peak memory of the largest process, what the repository grew by.
"""
import argparse, filecmp, multiprocessing, os, random, resource, shutil, statistics, struct, subprocess, sys, time

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("work")
ap.add_argument("holdfast")
ap.add_argument("server")
ap.add_argument("--rdb", default="/tmp/holdfast-data/rdb")
ap.add_argument("--runs", type=int, default=3)
ap.add_argument("--parts", default="sets,lru,network,journal,large")
ap.add_argument("--large-megabytes", type=int, default=4000)
args = ap.parse_args()
work, holdfast = os.path.abspath(args.work), os.path.abspath(args.holdfast)
os.makedirs(work, exist_ok=True)
with open(work + "/password", "w") as file:
    file.write("bench\n")
os.chmod(work + "/password", 0o600)
rows = {}


def timed(argv, env=None, stdin=None, stdout=None):
    """Wall and CPU seconds, and peak memory in MB, of a program that must succeed."""
    with open(work + "/log", "ab") as log:
        begun = time.monotonic()
        process = subprocess.Popen(argv, env=dict(os.environ, **(env or {})), cwd=work, stderr=log,
                                   stdin=open(stdin, "rb") if stdin else subprocess.DEVNULL,
                                   stdout=stdout or log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("%s failed, see %s/log" % (argv, work))
    return time.monotonic() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def size(path):
    return sum(os.lstat(os.path.join(folder, name)).st_size
               for folder, _, names in os.walk(path) for name in names) / 1e6


class Tool:
    def __init__(self):
        self.repo, self.out = work + "/repo", work + "/out"
        self.clean()
        os.makedirs(work + "/home")
        self.env = {"HOME": work + "/home"}
        self.init()

    def clean(self):
        for path in (self.repo, self.out, work + "/home"):
            shutil.rmtree(path, ignore_errors=True)

    def step(self, what, *argv, **more):
        before = size(self.repo)
        row = timed(argv, self.env, **more) + (size(self.repo) - before,)
        rows.setdefault((type(self).__name__, what), []).append(row)


class Holdfast(Tool):
    form = []

    def init(self):
        key = work + "/home/key"
        subprocess.run(["age-keygen", "-o", key], stderr=subprocess.DEVNULL, check=True)
        recipient = subprocess.check_output(["age-keygen", "-y", key], text=True).strip()
        self.env.update(HOLDFAST_REPO=self.repo, HOLDFAST_IDENTITY_FILE=key)
        timed([holdfast, "init", "--recipient", recipient], self.env)

    def save(self, what, dump):
        self.step(what, holdfast, "backup", *self.form, "--redis-rdb", "cache=" + dump)

    def restore(self):
        self.step("restore", holdfast, "restore", "source:cache", "--target", self.out)
        return self.out + "/cache.rdb"


class Canonical(Holdfast):
    form = ["--canonical"]


class Restic(Tool):
    def init(self):
        self.env.update(RESTIC_REPOSITORY=self.repo, RESTIC_PASSWORD_FILE=work + "/password",
                        RESTIC_CACHE_DIR=work + "/home/cache")
        timed(["restic", "init"], self.env)

    def save(self, what, dump):
        self.step(what, "restic", "backup", "-q", "--stdin", "--stdin-filename", "dump", stdin=dump)

    def restore(self):
        self.step("restore", "restic", "restore", "latest", "-q", "--target", self.out)
        return self.out + "/dump"


class Borg(Tool):
    count = 0

    def init(self):
        self.env.update(BORG_REPO=self.repo, BORG_PASSPHRASE="bench", BORG_BASE_DIR=work + "/home")
        timed(["borg", "init", "-e", "repokey-blake2"], self.env)

    def save(self, what, dump):
        self.count += 1
        self.step(what, "borg", "create", "-C", "zstd,3", "::%d" % self.count, "-", stdin=dump)

    def restore(self):
        os.makedirs(self.out)
        with open(self.out + "/dump", "wb") as file:
            self.step("restore", "borg", "extract", "--stdout", "::%d" % self.count, stdout=file)
        return self.out + "/dump"


class Server:
    """A server of its own on a copy of a dump."""

    def __init__(self, dump, *words):
        self.folder = work + "/server"
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        if dump:
            shutil.copy(dump, self.folder + "/dump.rdb")
        self.socket = self.folder + "/s"
        self.words = ["--port", "0", "--unixsocket", self.socket, "--dir", self.folder, "--save", "",
                      "--repl-diskless-sync-delay", "0", *words]
        self.start()

    def start(self):
        log = open(self.folder + "/log", "ab")
        self.process = subprocess.Popen([args.server, *self.words], stdout=log, stderr=log)
        while b"PONG" not in subprocess.run(self.cli("ping"), capture_output=True).stdout:
            if self.process.poll() is not None:
                sys.exit("the server ended, see %s/log" % self.folder)
            time.sleep(0.1)

    def cli(self, *words):
        return ["redis-cli", "-s", self.socket, *words]

    def save(self, to):
        subprocess.run(self.cli("save"), check=True, stdout=subprocess.DEVNULL)
        shutil.copy(self.folder + "/dump.rdb", to)

    def stop(self):
        self.process.kill()
        self.process.wait()


def show():
    for (tool, what), found in rows.items():
        wall, cpu, memory, grew = map(statistics.median, zip(*found))
        walls = " ".join("%.2f" % row[0] for row in found)
        print("%-10s %-22s %7.2f s %7.2f cpu s %6.0f MB  grew %8.3f MB   (%s)"
              % (tool, what, wall, cpu, memory, grew, walls), flush=True)
    rows.clear()


def sets():
    dumps = [("first", "r0"), ("changed", "r1"), ("restarted", "r2")]
    for _ in range(args.runs):
        for kind in (Holdfast, Canonical, Restic, Borg):
            name = kind.__name__.lower()
            if kind in (Restic, Borg) and not shutil.which(name):
                continue
            tool = kind()
            for what, dump in dumps:
                tool.save(what, args.rdb + "/" + dump)
            found = tool.restore()
            if kind is not Canonical and not filecmp.cmp(found, args.rdb + "/r2", shallow=False):
                sys.exit(name + " restored something else")
            if kind is Canonical:
                subprocess.run(["redis-check-rdb", found], check=True, stdout=subprocess.DEVNULL)
    show()


def lru():
    for policy in ("allkeys-lru", "allkeys-lfu"):
        server = Server(args.rdb + "/r2", "--maxmemory", "8gb", "--maxmemory-policy", policy)
        try:
            time.sleep(3)
            server.save(work + "/l0")
            chosen = random.Random(5)
            reads = "".join("GET sess:%d\r\n" % chosen.randrange(400_000) for _ in range(40_000))
            subprocess.run(server.cli("--pipe"), input=reads.encode(), stdout=subprocess.DEVNULL)
            time.sleep(3)
            server.save(work + "/l1")
            server.stop()
            server.start()
            server.save(work + "/l2")
        finally:
            server.stop()
        tool = Holdfast()
        tool.save(policy + " first", work + "/l0")
        tool.save(policy + " 40,000 reads", work + "/l1")
        tool.save(policy + " restarted", work + "/l2")
        if not filecmp.cmp(tool.restore(), work + "/l2", shallow=False):
            sys.exit("something else came back")
        rows.popitem()
    show()


def network():
    for length in ("as it is", "four times"):
        server = Server(args.rdb + "/r2", "--port", "16399")
        try:
            if length != "as it is":
                # The same values under more keys, by the server itself.
                copy = ("for _,k in ipairs(redis.call('KEYS','sess:*')) do for i=1,3 do "
                        "redis.call('COPY',k,k..':'..i) end end")
                subprocess.run(server.cli("eval", copy, "0"), check=True)
            for _ in range(args.runs):
                row = timed(["redis-cli", "-p", "16399", "--rdb", work + "/n.rdb"])
                rows.setdefault(("redis-cli", length), []).append(row + (0,))
                row = timed(["bash", "-c", "redis-cli -p 16399 --rdb n.rdb && sync n.rdb"])
                rows.setdefault(("with sync", length), []).append(row + (0,))
                tool = Holdfast()
                tool.step(length, holdfast, "backup", "--redis", "cache=redis://127.0.0.1:16399")
                tool.step(length + ", again", holdfast, "backup", "--redis", "cache")
        finally:
            server.stop()
    show()


def benchmark(server, count):
    """Requests a second of SET and of LPUSH, pipelined."""
    argv = ["redis-benchmark", "-s", server.socket, "-t", "set,lpush", "-n", str(count), "-P", "16",
            "-d", "100", "-r", "100000", "--csv"]
    lines = subprocess.check_output(argv, text=True).splitlines()[1:]
    return " ".join("%s %.0f/s" % tuple(field(line)) for line in lines)


def field(line):
    words = [word.strip('"') for word in line.split(",")]
    return words[0], float(words[1])


def offset(server):
    info = subprocess.check_output(server.cli("info", "replication"), text=True)
    return int(info.split("master_repl_offset:")[1].split()[0])


def journal():
    count = 2_000_000
    for followed in (False, True):
        server = Server(None, "--enable-debug-command", "yes")
        try:
            if not followed:
                print("journal: alone:    " + benchmark(server, count), flush=True)
                continue
            tool = Holdfast()
            log = open(work + "/stream.log", "wb")
            argv = [holdfast, "redis", "stream", "cache=unix://" + server.socket]
            stream = subprocess.Popen(argv, env=dict(os.environ, **tool.env), stderr=log, stdout=log)
            while b"keys saved" not in open(work + "/stream.log", "rb").read():
                time.sleep(0.1)
            before = offset(server)
            rate = benchmark(server, count)
            ended, wanted = time.monotonic(), offset(server)
            while True:
                info = subprocess.check_output(server.cli("info", "replication"), text=True)
                acked = info.split("slave0:")[1].split("offset=")[1].split(",")[0] if "slave0:" in info else 0
                if int(acked) >= wanted:
                    break
                time.sleep(0.1)
            waited = time.monotonic() - ended
            digest = subprocess.check_output(server.cli("debug", "digest"))
            stream.terminate()
            _, _, usage = os.wait4(stream.pid, 0)
            said = open(work + "/stream.log").read()
            print("journal: followed: %s; %.0f MB of commands, durable %.1f s after the last, %.0f MB of memory,"
                  " %.1f CPU s, repository %.0f MB, cut off: %s" % (rate, (wanted - before) / 1e6, waited,
                  usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, size(tool.repo),
                  "no" if said.count("keys saved") == 1 else "YES"), flush=True)
            row = timed([holdfast, "restore", "source:cache", "--to", "latest", "--target", work + "/out"], tool.env)
            print("journal: restored in %.1f s, %.0f MB of memory" % (row[0], row[2]), flush=True)
        finally:
            server.stop()
    server = Server(None, "--enable-debug-command", "yes", "--appendonly", "yes", "--dir", work + "/out")
    same = subprocess.check_output(server.cli("debug", "digest")) == digest
    server.stop()
    if not same:
        sys.exit("something else came back")


def write_large(path, turn):
    """Strings of 40 to 400 bytes, of which half do not compress, hashes, and a table of ten million
    elements; the order is another one in each turn."""
    megabytes, chosen = args.large_megabytes, random.Random(3)
    noise = chosen.randbytes(1 << 20)
    numbers = list(range(megabytes * 4000))
    random.Random(turn).shuffle(numbers)
    with open(path, "wb", buffering=1 << 20) as file:
        file.write(b"REDIS0010\xfe\x00")
        for number in numbers:
            change = turn if number % 100 == 0 else 0
            key, at = b"key:%09d" % number, (number * 7919 + change) % 900_000
            length = 40 + number % 360
            value = noise[at:at + length // 2] + b"session of user %012d" % number
            value = (value + b" and what there is to say" * 10)[:length]
            head = bytes([length]) if length < 64 else struct.pack(">H", 0x4000 | length)
            file.write(b"\x00\x0d" + key + head + value)
        count = megabytes * 300
        file.write(b"\x04\x05table\x80" + struct.pack(">I", count))
        for number in range(count):
            file.write(b"\x0cfield%07d\x10%016d" % (number % 10**7, number * 7919))
        file.write(b"\xff" + bytes(8))


def large():
    tool = Holdfast()
    for turn, what in ((0, "large, first"), (1, "large, restarted, 1 %")):
        # In a process of its own: the peak memory of what is started counts that of who starts it.
        writer = multiprocessing.Process(target=write_large, args=(work + "/large.rdb", turn))
        writer.start()
        writer.join()
        print("%s: %.0f MB" % (what, os.path.getsize(work + "/large.rdb") / 1e6), flush=True)
        tool.save(what, work + "/large.rdb")
    if not filecmp.cmp(tool.restore(), work + "/large.rdb", shallow=False):
        sys.exit("something else came back")
    show()
    tool.clean()
    os.remove(work + "/large.rdb")


for part in args.parts.split(","):
    {"sets": sets, "lru": lru, "network": network, "journal": journal, "large": large}[part]()
