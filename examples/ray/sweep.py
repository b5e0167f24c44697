"""Runs the jobs of `polyrank-train sweep --list` on a Ray cluster. See README.md beside this file."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import ray

# The error of polyrank-train where another process trains in the folder: that of a worker which Ray has lost, but which still runs.
BUSY = "another process trains here"

# The list says all settings. Those of a machine's environment would change the runs, but for how they are carried out.
SETTINGS = "POLYRANK_TRAIN_"
CARRIED_OUT = {SETTINGS + name for name in ("DEVICE", "CHECKPOINT_EVERY", "KEEP_CHECKPOINTS", "LOG_EVERY")}


def run(job, program, directory, cpus):
    """Runs one job to its end and returns its result. A job that was begun elsewhere continues."""
    command = [program, *job["command"][1:]]
    kept = {name: value for name, value in os.environ.items() if name in CARRIED_OUT or not name.startswith(SETTINGS)}
    environment = {**kept, "RAYON_NUM_THREADS": str(cpus)}
    while True:
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0 or BUSY not in done.stderr:
            break
        time.sleep(1)
    result = {"name": job["name"], "output": job["output"], "code": done.returncode}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return {**result, "error": lines[-1] if lines else "no message"}
    log = pathlib.Path(directory, job["output"], "run", "log.jsonl")
    return {**result, "last_epoch": json.loads(log.read_text().splitlines()[-1])}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", type=pathlib.Path, help="file with a job a line")
    parser.add_argument("--program", default="polyrank-train", help="polyrank-train on every machine")
    parser.add_argument("--directory", default=os.getcwd(), help="where the jobs' relative paths begin, on every machine")
    parser.add_argument("--cpus", type=int, default=1, help="cores of a job")
    parser.add_argument("--retries", type=int, default=3, help="how often a job may lose its worker")
    parser.add_argument("--address", help="the cluster [default: this machine alone]")
    parser.add_argument("--local-cpus", type=int, help="cores of this machine, without --address [default: all]")
    args = parser.parse_args()

    jobs = [json.loads(line) for line in args.jobs.read_text().splitlines() if line.strip()]
    ray.init(address=args.address, num_cpus=args.local_cpus, include_dashboard=False, log_to_driver=False)
    # A lost worker is retried by Ray. A job that fails by itself would fail again, and is not.
    task = ray.remote(num_cpus=args.cpus, max_retries=args.retries)(run)
    waiting = [task.remote(job, args.program, args.directory, args.cpus) for job in jobs]
    failed = 0
    while waiting:
        done, waiting = ray.wait(waiting)
        for reference in done:
            try:
                result = ray.get(reference)
            except ray.exceptions.RayError as error:
                result = {"code": None, "error": str(error)}
            failed += result["code"] != 0
            print(json.dumps(result), flush=True)
    print(f"{len(jobs) - failed} of {len(jobs)} jobs finished", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
