"""Runs a sweep on the tiny base with examples/ray/sweep.py and two local workers, one of which is killed, and one of its runs as a pod
of examples/kubernetes/sweep-job.yaml would. Argument: the folder of the programs. Needs ray and pyyaml."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SWEEP = """
data_root = "data"
tasks = ["sentiment", "urgency"]
methods = ["lora", "sora"]
model_id = "{base}"
epochs = 4
ranks = [4]
seeds = [0]
"""
MARK = "POLYRANK_RAY_TEST"


def workers(mark):
    """The Ray workers of this test that run a job."""
    for process in pathlib.Path("/proc").iterdir():
        try:
            environment = (process / "environ").read_bytes()
            if (process / "cmdline").read_bytes().startswith(b"ray::run") and f"{MARK}={mark}".encode() in environment:
                yield int(process.name)
        except (OSError, ValueError):
            continue


def kill_one_worker(room, mark, script):
    """Kills the first worker of which a run has finished an epoch. A run of the pod may have finished before."""
    def logs():
        return set(room.glob("runs/*/*/run/log.jsonl"))

    before, deadline = logs(), time.monotonic() + 300
    while logs() == before:
        assert script.poll() is None, script.communicate()
        assert time.monotonic() < deadline, "no run has finished an epoch in five minutes"
        time.sleep(0.05)
    found = list(workers(mark))
    assert found, "expected Ray workers"
    os.kill(found[0], signal.SIGKILL)


def on_ray(room, program):
    mark = room.name
    command = [sys.executable, REPOSITORY / "examples/ray/sweep.py", room / "jobs.jsonl", "--program", program]
    command += ["--directory", room, "--cpus", "1", "--local-cpus", "2"]
    environment = {**os.environ, MARK: mark}
    script = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        kill_one_worker(room, mark, script)
        printed, errors = script.communicate(timeout=300)
    finally:
        if script.poll() is None:
            script.terminate()
            script.wait()
    assert script.returncode == 0, printed + errors
    # Ray itself prints a message about the lost worker.
    results = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert len(results) == 4 and all(result["last_epoch"]["epoch"] == 4 for result in results), printed
    print("Ray: 4 jobs on two workers, one of which was killed")


def as_a_pod(room, program, index):
    """Runs the command of a pod with its index; the paths of the cluster are those of the test."""
    text = (REPOSITORY / "examples/kubernetes/sweep-job.yaml").read_text()
    job = yaml.safe_load(text.replace("COMPLETIONS", "4").replace("IMAGE", "polyrank:test"))
    assert (job["kind"], job["spec"]["completionMode"], job["spec"]["completions"]) == ("Job", "Indexed", 4)
    container = job["spec"]["template"]["spec"]["containers"][0]
    path = f"{pathlib.Path(program).parent}:{os.environ['PATH']}"
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["JOBS"] == "/jobs/jobs.jsonl"
    environment = {**os.environ, "JOBS": str(room / "jobs.jsonl"), "JOB_COMPLETION_INDEX": str(index), "PATH": path}
    subprocess.run(container["command"] + container["args"], cwd=room, env=environment, check=True, capture_output=True)
    print(f"Kubernetes: the command of pod {index} runs")


def main():
    program = str(pathlib.Path(sys.argv[1]).resolve() / "polyrank-train")
    with tempfile.TemporaryDirectory() as folder:
        room = pathlib.Path(folder)
        (room / "data").symlink_to(REPOSITORY / "examples/data")
        (room / "sweep.toml").write_text(SWEEP.format(base=REPOSITORY / "tests/goldens/bert"))
        sweep = [program, "sweep", "sweep.toml", "--output", "runs"]
        (room / "jobs.jsonl").write_bytes(subprocess.check_output([*sweep, "--list"], cwd=room))
        as_a_pod(room, program, 3)
        assert [str(path) for path in room.glob("runs/*/*/adapter_config.json")] == [
            str(room / "runs/urgency/sora-r4-s0/adapter_config.json")
        ]
        on_ray(room, program)
        subprocess.run(sweep, cwd=room, check=True)
        lines = (room / "runs/results.jsonl").read_text().splitlines()
        assert len(lines) == 4, lines


if __name__ == "__main__":
    main()
