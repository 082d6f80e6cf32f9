#!/usr/bin/env python3
"""Restores of one tree by Holdfast and its peers: restores.py TREE WORK_FOLDER [HOLDFAST]

Each restore goes into a folder of its own, and nothing is removed before the end: on ext4, making
files is slow for minutes after many were deleted, which would be charged to whoever comes next.
Every tool has two turns, the second in the reverse order. Printed: seconds until the tool ends, and
until `sync` has ended after it. Tools that are not there are left out.
"""
import os, shutil, subprocess, sys, time

tree, work = map(os.path.abspath, sys.argv[1:3])
holdfast = os.path.abspath(sys.argv[3]) if len(sys.argv) > 3 else "holdfast"
shutil.rmtree(work, ignore_errors=True)
os.makedirs(work + "/home")
open(work + "/pw", "w").write("bench\n")
os.chmod(work + "/pw", 0o600)
env = dict(os.environ, HOME=work + "/home", HOLDFAST_REPO=work + "/holdfast",
           HOLDFAST_IDENTITY_FILE=work + "/key", RESTIC_REPOSITORY=work + "/restic",
           RESTIC_PASSWORD="bench", BORG_REPO=work + "/borg", BORG_PASSPHRASE="bench",
           RUSTIC_REPOSITORY=work + "/rustic", RUSTIC_PASSWORD="bench", RUSTIC_NO_PROGRESS="true",
           BUPSTASH_REPOSITORY=work + "/bupstash", BUPSTASH_KEY=work + "/bupstash.key")


def run(argv, cwd=None):
    done = subprocess.run(argv, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit("%s failed:\n%s" % (argv, done.stdout.decode(errors="replace")))


run(["age-keygen", "-o", work + "/key"])
public = subprocess.check_output(["age-keygen", "-y", work + "/key"], text=True).strip()
archive = work + "/archive"
tools = {  # name: (program, commands that save, command that restores into {out})
    "holdfast": (holdfast, [["init", "--recipient", public], ["backup", tree]],
                 [holdfast, "restore", "latest", "--target", "{out}"]),
    "restic": ("restic", [["init"], ["backup", "-q", tree]],
               ["restic", "restore", "latest", "-q", "--target", "{out}"]),
    "borg": ("borg", [["init", "-e", "repokey-blake2"], ["create", "-C", "zstd,3", "::a", tree]],
             ["borg", "extract", "::a"]),
    "rustic": ("rustic", [["init"], ["backup", tree]], ["rustic", "restore", "latest", "{out}"]),
    "bupstash": ("bupstash", [["init"], ["new-key", "-o", work + "/bupstash.key"],
                              ["put", "-q", "name=a", tree]],
                 ["bupstash", "restore", "-q", "--into", "{out}", "name=a"]),
    "tar, zstd, age": ("bash", [["-c", "tar cf - '%s' 2>/dev/null | zstd -q -3 -T2 | age -r %s > %s"
                                 % (tree, public, archive)]],
                       ["bash", "-c", "age -d -i %s/key %s | zstd -q -d | tar xf - -C {out}"
                        % (work, archive)]),
}
tools = {name: tool for name, tool in tools.items() if shutil.which(tool[0])}
for name, (program, commands, _) in tools.items():
    for words in commands:
        run([program, *words])
times = {name: [] for name in tools}
for turn, names in enumerate([list(tools), list(reversed(tools))]):
    for name in names:
        out = "%s/out-%d-%s" % (work, turn, name.split(",")[0])
        os.makedirs(out)
        os.sync()
        begun = time.monotonic()
        run([word.replace("{out}", out) for word in tools[name][2]], cwd=out)
        ended = time.monotonic()
        os.sync()
        times[name].append((ended - begun, time.monotonic() - begun))
        files = sum(len(files) for _, _, files in os.walk(out))
        print("%-16s turn %d  %6.2f s  %6.2f s with sync  %d files"
              % (name, turn, *times[name][-1], files), flush=True)
for name, turns in times.items():
    print("%-16s best    %6.2f s  %6.2f s with sync" % (name, *map(min, zip(*turns))))
shutil.rmtree(work)
