#!/usr/bin/env python3
"""PostgreSQL: postgres.py BIN_FOLDER WORK_FOLDER [HOLDFAST] [SCALE]

Makes a cluster with pgbench (SCALE 60 is about 1 GB), and measures: base backups beside
`pg_basebackup -Ft | zstd -3 -T2`, the second after scattered updates; dumps beside
`pg_dump -Fd -j4 -Z0`; restores; wal-push of segments that are new and of one that is saved.
Run as the user that the server may run as. Prints seconds, and megabytes that were stored.
"""
import os, resource, shutil, subprocess, sys, time

bins, work = map(os.path.abspath, sys.argv[1:3])
holdfast = os.path.abspath(sys.argv[3]) if len(sys.argv) > 3 else "holdfast"
scale = sys.argv[4] if len(sys.argv) > 4 else "60"
shutil.rmtree(work, ignore_errors=True)
os.makedirs(work + "/home")
open(work + "/pw", "w").write("bench\n")
os.chmod(work + "/pw", 0o600)
env = dict(os.environ, HOME=work + "/home", HOLDFAST_REPO=work + "/repo", PGHOST=work,
           HOLDFAST_PASSWORD_FILE=work + "/pw", PGPORT="5999", PGUSER="postgres",
           PATH=bins + ":" + os.environ["PATH"])


def run(*argv, shell=False):
    begun = time.monotonic()
    done = subprocess.run(argv[0] if shell else argv, env=env, shell=shell, cwd=work,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit("%s failed:\n%s" % (argv, done.stdout.decode(errors="replace")))
    return time.monotonic() - begun


def size(path):
    total = 0
    for folder, _, names in os.walk(path):
        total += sum(os.path.getsize(os.path.join(folder, name)) for name in names)
    return total / 1e6


def stored(what, *argv):
    before = size(work + "/repo")
    seconds = run(holdfast, *argv)
    print("%-44s %7.2f s %9.1f MB" % (what, seconds, size(work + "/repo") - before), flush=True)


data = work + "/data"
run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-k", "--no-sync")
with open(data + "/postgresql.conf", "a") as conf:
    conf.write("listen_addresses=''\nunix_socket_directories='%s'\nport=5999\nfsync=off\n"
               "max_wal_size=8GB\nshared_buffers=512MB\ndynamic_shared_memory_type=mmap\n" % work)
log = open(work + "/log", "w")
subprocess.check_call(["pg_ctl", "-D", data, "-w", "start"], env=env, stdout=log, stderr=log)
try:
    run("createdb", "shop")
    run("pgbench", "-i", "-q", "-s", scale, "shop")
    run("psql", "-c", "VACUUM FREEZE", "-c", "CHECKPOINT", "shop")
    run(holdfast, "init")
    where = "host=%s port=5999 user=postgres dbname=" % work
    print("cluster: %.0f MB" % size(data))
    for turn in "ab":
        seconds = run("pg_basebackup -Ft -X none -c fast -D - | zstd -q -3 -T2 > tar.zst", shell=True)
        megabytes = os.path.getsize(work + "/tar.zst") / 1e6
        print("%-44s %7.2f s %9.1f MB" % ("pg_basebackup -Ft | zstd -3 -T2", seconds, megabytes))
    base = ["backup", "--postgres", "main=" + where + "postgres", "--method", "base"]
    stored("base backup, first", *base)
    stored("base backup, unchanged", *base)
    run("psql", "-c", "UPDATE pgbench_accounts SET abalance = 1 WHERE aid % 997 = 0", "shop")
    run("psql", "-c", "CHECKPOINT", "shop")
    stored("base backup, 0.1 % of rows updated", *base)
    for turn in "ab":
        seconds = run("rm -rf dump; pg_dump -Fd -j4 -Z0 -f dump shop", shell=True)
        print("%-44s %7.2f s %9.1f MB" % ("pg_dump -Fd -j4 -Z0", seconds, size(work + "/dump")))
    dump = ["backup", "--postgres", "shop=" + where + "shop"]
    stored("dump, first", *dump)
    stored("dump, again", *dump)
    seconds = run(holdfast, "restore", "source:main", "--target", work + "/restored")
    print("%-44s %7.2f s" % ("restore of the base backup", seconds))
    # Segments: as many as the load above has left in pg_wal, in one push.
    folder = data + "/pg_wal"
    now = subprocess.check_output(["psql", "-XAtc", "SELECT pg_walfile_name(pg_current_wal_lsn())"],
                                  env=env, text=True).strip()
    names = sorted(name for name in os.listdir(folder) if len(name) == 24 and name < now)[:40]
    for name in names:
        open("%s/archive_status/%s.ready" % (folder, name), "w")
    stored("wal-push of %d segments in one run" % len(names), "pg", "wal-push", "--source", "main",
           folder + "/" + names[0])
    begun = time.monotonic()
    for name in names:
        run(holdfast, "pg", "wal-push", "--source", "main", folder + "/" + name)
    rate = len(names) / (time.monotonic() - begun)
    print("%-44s %7.0f /s" % ("wal-push of segments that are saved", rate))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print("%-44s %7.0f MiB" % ("memory of the largest process", peak))
finally:
    subprocess.call(["pg_ctl", "-D", data, "-m", "immediate", "stop"], env=env, stdout=log)
