#!/usr/bin/env python3
"""Holdfast between two S3 clusters on this machine, beside restic and rclone.

    benches/regions.py DATA_FOLDER WORK_FOLDER [HOLDFAST] [DELAY_PROXY]

Needs weed (SeaweedFS), restic and rclone on the path. DELAY_PROXY is the built bench `delay_proxy`
(cargo build --release --bench delay_proxy): with it, restores run over 50 ms and 100 Mbit/s.
Prints one line for each figure, and the results as JSON in the end.
"""
import json, os, shutil, socket, statistics, subprocess, sys, time

data, work = map(os.path.abspath, sys.argv[1:3])
holdfast = os.path.abspath(sys.argv[3]) if len(sys.argv) > 3 else "holdfast"
proxy = os.path.abspath(sys.argv[4]) if len(sys.argv) > 4 else None
results, processes = {}, []
COPIES = 5
shutil.rmtree(work, ignore_errors=True)
os.makedirs(work + "/home")
open(work + "/pw", "w").write("bench\n")
os.chmod(work + "/pw", 0o600)
env = dict(os.environ, HOME=work + "/home", AWS_ACCESS_KEY_ID="AK", AWS_SECRET_ACCESS_KEY="SK",
           AWS_EC2_METADATA_DISABLED="true", HOLDFAST_PASSWORD_FILE=work + "/pw",
           RESTIC_PASSWORD="bench", RESTIC_CACHE_DIR=work + "/restic-cache")


def run(name, argv, check=True):
    """Wall seconds and peak memory in MB of a command; its output."""
    out = open(work + "/out", "w+b")
    begun = time.time()
    child = subprocess.Popen(argv, env=env, stdout=out, stderr=subprocess.STDOUT)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.time() - begun
    out.seek(0)
    text = out.read().decode(errors="replace")
    if check and status:
        sys.exit("%s failed:\n%s" % (argv, text))
    results[name] = {"seconds": round(seconds, 2), "peak_mb": round(usage.ru_maxrss / 1024)}
    print("%-34s %7.2f s  %5d MB" % (name, seconds, usage.ru_maxrss / 1024), flush=True)
    return text


def seaweed(name, port):
    folder = work + "/" + name
    os.makedirs(folder + "/data")
    json.dump({"identities": [{"name": "t", "credentials": [{"accessKey": "AK", "secretKey": "SK"}],
               "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]},
              open(folder + "/s3.json", "w"))
    argv = ["weed", "-logtostderr", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-dir=" + folder + "/data", "-master.telemetry=false", "-filer", "-s3",
            "-s3.config=" + folder + "/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-master.volumeSizeLimitMB=1024", "-volume.max=50", "-s3.port=%d" % port,
            "-master.port=%d" % (port + 1), "-volume.port=%d" % (port + 2),
            "-filer.port=%d" % (port + 3)]
    log = open(folder + "/log", "wb")
    processes.append(subprocess.Popen(argv, stdout=log, stderr=log, env=os.environ))
    wait_for(port)
    remote = ("[%s]\ntype = s3\nprovider = SeaweedFS\naccess_key_id = AK\nsecret_access_key = SK\n"
              "endpoint = http://127.0.0.1:%d\n" % (name, port))
    open(work + "/rclone.conf", "a").write(remote)
    for _ in range(60):
        made = rclone("mkdir", name + ":bench")
        if made.returncode == 0:
            return
        time.sleep(0.5)
    sys.exit("no bucket: " + made.stdout.decode())


def wait_for(port):
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit("nothing listens at %d" % port)


def rclone_argv(*words):
    return ["rclone", "--config", work + "/rclone.conf", *words]


def rclone(*words):
    return subprocess.run(rclone_argv(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def same(restored):
    done = subprocess.run(["diff", "-r", "--no-dereference", data, restored],
                          stdout=subprocess.PIPE)
    return done.returncode == 0


def requests(text):
    return json.loads(text.strip().splitlines()[-1])["requests"]


try:
    east, west = 18730, 18830
    seaweed("east", east)
    seaweed("west", west)
    hf = [holdfast]
    repo, copy = "s3://bench/east", "s3://bench/west"
    run("init", hf + ["init", "-r", repo, "--endpoint", "http://127.0.0.1:%d" % east])
    run("init, local", hf + ["init", "-r", work + "/local"])
    subprocess.run(["find", data, "-type", "f", "-exec", "cat", "{}", "+"],
                   stdout=subprocess.DEVNULL)
    run("backup, local", hf + ["backup", "-r", work + "/local", data])
    text = run("backup, S3", hf + ["backup", "-r", repo, data, "--json"])
    print("   ", requests(text))
    text = run("backup, S3, unchanged", hf + ["backup", "-r", repo, data, "--json"])
    results["requests, unchanged"] = requests(text)
    print("   ", requests(text))
    url = "s3:http://127.0.0.1:%d/bench/restic" % east
    run("restic init", ["restic", "-r", url, "init"])
    run("restic backup, S3", ["restic", "-r", url, "backup", data])
    run("restic backup, S3, unchanged", ["restic", "-r", url, "backup", data])
    run("replica add", hf + ["replica", "add", "west", copy, "-r", repo, "--endpoint",
                             "http://127.0.0.1:%d" % west])
    run("copy", hf + ["copy", "-r", repo, "--to", "west"])
    for turn in range(COPIES):
        place = "s3://bench/west-%d" % turn
        run("replica add", hf + ["replica", "add", "west-%d" % turn, place, "-r", repo,
                                 "--endpoint", "http://127.0.0.1:%d" % west])
        run("copy, turn %d" % turn, hf + ["copy", "-r", repo, "--to", "west-%d" % turn])
        run("rclone copy, turn %d" % turn,
            rclone_argv("copy", "east:bench/east", "west:bench/rclone-%d" % turn))
    for name in ["copy", "rclone copy"]:
        turns = [results["%s, turn %d" % (name, turn)]["seconds"] for turn in range(COPIES)]
        print("%-34s %7.2f s  median" % (name, statistics.median(turns)))
        results[name + ", median"] = statistics.median(turns)
    run("copy, nothing new", hf + ["copy", "-r", repo, "--to", "west"])
    run("check --no-key --read-data", hf + ["check", "-r", copy, "--no-key", "--read-data"])
    part = "latest:" + data
    run("restore, S3", hf + ["restore", "-r", repo, part, "--target", work + "/near"])
    results["restore, S3"]["same"] = same(work + "/near")
    # Nothing is removed before the end: ext4 takes long to make files after many were deleted.
    if proxy:
        far = 18930
        processes.append(subprocess.Popen([proxy, "127.0.0.1:%d" % far, "127.0.0.1:%d" % west,
                                           "50", "100"]))
        wait_for(far)
        remote = ("[far]\ntype = s3\nprovider = SeaweedFS\naccess_key_id = AK\n"
                  "secret_access_key = SK\nendpoint = http://127.0.0.1:%d\n" % far)
        open(work + "/rclone.conf", "a").write(remote)
        run("rclone copy, 50 ms, 16 transfers",
            rclone_argv("copy", "--transfers", "16", "far:bench/west", work + "/download"))
        run("restore, 50 ms", hf + ["restore", "-r", copy, part, "--target", work + "/far",
                                    "--endpoint", "http://127.0.0.1:%d" % far])
        results["restore, 50 ms"]["same"] = same(work + "/far")
finally:
    for process in processes:
        process.kill()
        process.wait()
    for restored in ["near", "far", "download"]:
        shutil.rmtree(work + "/" + restored, ignore_errors=True)
print(json.dumps(results, indent=1))
