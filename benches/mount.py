#!/usr/bin/env python3
"""Measures a mount: mount.py HOLDFAST TREE FILE, as root.

TREE is a folder with many files, FILE a large one. Each figure is the best of three."""
import os, random, shutil, subprocess, sys, tempfile, time

holdfast, tree, file = (os.path.realpath(path) for path in sys.argv[1:4])
work = tempfile.mkdtemp()
environment = {"HOME": work, "PATH": os.environ["PATH"], "HOLDFAST_REPO": work + "/repo",
               "HOLDFAST_PASSWORD_FILE": work + "/secret"}
mnt = work + "/mnt"
os.mkdir(mnt)
with open(work + "/secret", "w") as secret:
    secret.write("correct horse battery staple\n")
os.chmod(work + "/secret", 0o600)


def run(*arguments):
    subprocess.run([holdfast, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)


def timed(work):
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as caches:
        caches.write("3\n")


class Mount:
    def __enter__(self):
        self.process = subprocess.Popen([holdfast, "mount", mnt], env=environment,
                                        stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline().startswith("mounted at")
        return self

    def __exit__(self, *_):
        with open(f"/proc/{self.process.pid}/status") as status:
            peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
        Mount.peak = max(getattr(Mount, "peak", 0), int(peak) // 1024)
        self.process.terminate()
        assert self.process.wait() == 0


def read_all(path):
    with open(path, "rb", buffering=0) as source:
        while source.read(1 << 20):
            pass


def count(folder):
    found = subprocess.run(["find", folder, "-type", "f"], check=True, stdout=subprocess.PIPE)
    return found.stdout.count(b"\n")


def restore():
    shutil.rmtree(work + "/target", ignore_errors=True)
    run("restore", "source:file", "--target", work + "/target")


def mounted(work, cold):
    best = None
    for _ in range(3):
        with Mount():
            if cold:
                drop_caches()
            seconds = timed(work)
        best = min(best or seconds, seconds)
    return best


run("init")
run("backup", "--source", "tree", tree)
run("backup", "--source", "file", file)
shown_tree, shown_file = f"{mnt}/tree/latest{tree}", f"{mnt}/file/latest{file}"
size = os.path.getsize(file)

restored = min(timed(restore) for _ in range(3))
sequential = mounted(lambda: read_all(shown_file), cold=False)
print(f"restore    {size / restored / 1e6:8.0f} MB/s")
print(f"sequential {size / sequential / 1e6:8.0f} MB/s   {restored / sequential:.2f} of restore")

files = count(tree)
warm_original = min(timed(lambda: count(tree)) for _ in range(3))
cold_original = min((drop_caches(), timed(lambda: count(tree)))[1] for _ in range(3))
warm_cache = mounted(lambda: count(shown_tree), cold=False)
cold_mount = mounted(lambda: count(shown_tree), cold=True)
print(f"find, {files} files: original {warm_original:.2f} s, cold {cold_original:.2f} s")
print(f"find in a new mount {warm_cache:.2f} s, cold {cold_mount:.2f} s: "
      f"{warm_cache / warm_original:.1f} x and {cold_mount / cold_original:.1f} x")

with Mount():
    read_all(shown_file)
    with open(shown_file, "rb", buffering=0) as source:
        places = [random.randrange(size - 8192) for _ in range(100_000)]
        seconds = timed(lambda: [os.pread(source.fileno(), 8192, place) for place in places])
print(f"random 8 KiB reads, warm: {len(places) / seconds:.0f}/s")
print(f"memory: {Mount.peak} MiB at most")
shutil.rmtree(work)
