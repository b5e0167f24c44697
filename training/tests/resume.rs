//! Runs that go on: after a kill, a signal or a full disk, and longer ones out of finished ones.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use candle_core::Device;
use polyrank_training::checkpoint::{self, Progress};
use polyrank_training::method::{LowRankSettings, Method};
use polyrank_training::optim::{Optimizer, Rule};
use polyrank_training::report::TrainedRun;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::run::{data, fine, log, names, read, refused, sora, train};
use super::{base_dir, engine, home};

/// Starts a run and kills it once `until` says so. Returns whether it was killed before its end.
fn killed(args: &[&str], until: impl Fn() -> bool) -> bool {
    let mut run = Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
    let mut run = run.args(args).env("POLYRANK_HOME", home()).stderr(Stdio::null()).spawn().unwrap();
    while !until() && run.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    run.kill().unwrap();
    !run.wait().unwrap().success()
}

/// A run that is killed at random moments, again and again, ends as one that was not.
#[test]
fn resumed_run_after_kills_gives_the_same_result() {
    let data = data();
    let from = data.path().to_str().unwrap();
    let mut rng = StdRng::seed_from_u64(4);
    for (gate, every) in [("authors", "1000"), ("adaptive", "4")] {
        let room = TempDir::new().unwrap();
        let (whole, parted) = (room.path().join(gate), room.path().join(format!("{gate}-parted")));
        let more = ["--epochs", "12", "--lr", "3e-3", "--gate", gate, "--checkpoint-every", every];
        fine(&train(from, whole.to_str().unwrap(), &more));
        let begun = || names(&parted).contains(&"run".to_owned()) && parted.join("run/log.jsonl").exists();
        assert!(killed(&train(from, parted.to_str().unwrap(), &more), || parted.is_dir() && begun()));
        assert_eq!(names(&parted), ["run"]);
        // The files that remain if a process is killed while it saves a checkpoint or writes a log.
        std::fs::create_dir(parted.join("run/.checkpoint-half")).unwrap();
        for (log, half) in [("log.jsonl", "{\"epoch\": 1"), ("steps.jsonl", "{\"step\": 99}\n{\"st")] {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(parted.join("run").join(log));
            file.as_mut().unwrap().write_all(half.as_bytes()).unwrap();
        }
        let resumed = train(from, parted.to_str().unwrap(), &[&more[..], &["--resume"]].concat());
        for _ in 0..4 {
            let until = Instant::now() + Duration::from_millis(rng.random_range(0..400));
            killed(&resumed, || Instant::now() > until);
        }
        fine(&resumed);
        assert_eq!(names(&parted.join("run")), names(&whole.join("run")));
        let files = ["adapter_model.safetensors", "adapter_config.json", "config.json", "run/steps.jsonl"];
        for name in files.into_iter().chain(["run/checkpoint-12/state.safetensors", "run/checkpoint-12/state.json"]) {
            assert!(read(&parted.join(name)) == read(&whole.join(name)), "{name}");
        }
        assert_eq!(log(&parted), log(&whole));
    }
}

/// A process that is killed after it saved its last checkpoint, and before it removed the ones before, leaves them. The run that goes on
/// removes them, though it has nothing left to train. (The checkpoints are here because the first process was told to keep them.)
#[test]
fn resumed_run_removes_the_checkpoints_that_a_killed_one_left() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let from = data.path().to_str().unwrap();
    let (whole, killed) = (room.path().join("whole"), room.path().join("killed"));
    let more = ["--epochs", "3", "--lr", "3e-3", "--checkpoint-every", "2"];
    fine(&train(from, whole.to_str().unwrap(), &more));
    fine(&train(from, killed.to_str().unwrap(), &[&more[..], &["--keep-checkpoints"]].concat()));
    let (kept, left) = (names(&whole.join("run")), names(&killed.join("run")));
    assert!(left.len() > kept.len(), "{left:?}");
    fine(&train(from, killed.to_str().unwrap(), &[&more[..], &["--resume"]].concat()));
    assert_eq!(names(&killed.join("run")), kept);
}

/// What a process leaves that is killed in the third epoch continues to the same result, with every method.
#[test]
fn every_method_continues_exactly() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let base = base_dir();
    for method in ["sora", "lora", "adalora", "dylora", "bitfit", "adapter", "full"] {
        let output = room.path().join(method);
        let mut args = vec!["train", "--model-id", base.to_str().unwrap(), "--data", data.path().to_str().unwrap()];
        args.extend(["--output", output.to_str().unwrap(), "--method", method, "--epochs", "4", "--batch-size", "8"]);
        args.extend(["--lr", "3e-3", "--seed", "5", "--select", "last", "--keep-checkpoints"]);
        fine(&args);
        let weights = names(&output).into_iter().find(|name| name.ends_with(".safetensors")).unwrap();
        let whole = (read(&output.join(&weights)), log(&output));
        std::fs::remove_file(output.join(&weights)).unwrap();
        for epoch in [3, 4] {
            std::fs::remove_dir_all(output.join(format!("run/checkpoint-{epoch}"))).unwrap();
        }
        fine(&[&args[..], &["--resume"]].concat());
        assert!((read(&output.join(&weights)), log(&output)) == whole, "{method}");
    }
}

/// A signal ends the run after a step, and the program prints how to continue. Continued from that step, the run gives the same result.
#[cfg(unix)]
#[test]
fn run_stopped_by_a_signal_continues_with_resume() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let from = data.path().to_str().unwrap();
    let (whole, parted) = (room.path().join("whole"), room.path().join("parted"));
    let more = ["--epochs", "16", "--lr", "3e-3"];
    fine(&train(from, whole.to_str().unwrap(), &more));
    let args = train(from, parted.to_str().unwrap(), &more);
    for (signal, go_on) in [("-INT", &[][..]), ("-TERM", &["--resume"])] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
        let mut run = run.args(&args).args(go_on).env("POLYRANK_HOME", home()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = || std::fs::read_to_string(parted.join("run/log.jsonl")).unwrap_or_default().lines().count();
        let before = lines();
        while lines() == before {
            assert!(run.try_wait().unwrap().is_none(), "the run ended first");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(Command::new("kill").args([signal, &run.id().to_string()]).status().unwrap().success());
        let output = run.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{message}");
        assert!(message.trim_end().ends_with("--resume"), "{message}");
        assert_eq!(names(&parted), ["run"]);
        // No step is lost.
        let step: usize =
            message.split_once("stopped after step ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
        let last = checkpoint::last(&parted.join("run")).unwrap().unwrap();
        let state: serde_json::Value = serde_json::from_slice(&read(&last.join("state.json"))).unwrap();
        assert_eq!(state["step"], step, "{message}");
        let pruned = room.path().join(&signal[1..]);
        let told = fine(&["prune", last.to_str().unwrap(), "--output", pruned.to_str().unwrap()]);
        let at = match step % 6 {
            0 => format!("after epoch {}", step / 6),
            steps => format!("after step {steps} of epoch {}", step / 6 + 1),
        };
        assert!(told.contains(&format!("as it was {at}\n")), "{told}");
    }
    fine(&[&args[..], &["--resume"]].concat());
    assert_eq!(log(&parted), log(&whole));
    assert_eq!(read(&parted.join("adapter_model.safetensors")), read(&whole.join("adapter_model.safetensors")));
}

/// An equal score must not replace the best one after a restart. Once, 56/60 was read back slightly lower than it was written.
#[test]
fn best_score_is_read_back_exactly() {
    let room = TempDir::new().unwrap();
    let shape = LowRankSettings { rank: 1, alpha: 1.0, modules: vec![0], labels: 2, seed: 0 };
    let mut method = sora(&engine(), &shape);
    let rule = Rule { weight_decay: 0.0, eps: 1e-8, clip: None, total: 1 };
    let mut optimizer = Optimizer::new(method.variables(), rule, engine().backend()).unwrap();
    for all in [60, 545] {
        for right in 0..=all {
            let progress = Progress { epoch: 1, best: Some(f64::from(right) / f64::from(all)), ..Progress::default() };
            let text = serde_json::to_string(&progress).unwrap();
            assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), progress);
        }
    }
    let progress = Progress { epoch: 3, best: Some(56.0 / 60.0), best_loss: Some(0.3), best_epoch: 2, partial: None };
    checkpoint::save(room.path(), &method, &optimizer, &progress).unwrap();
    let last = checkpoint::last(room.path()).unwrap().unwrap();
    assert_eq!(checkpoint::load(&last, &mut method, &mut optimizer).unwrap(), progress);
}

#[test]
fn resume_needs_the_same_settings_data_and_base() {
    let (first, other, room) = (data(), data(), TempDir::new().unwrap());
    std::fs::write(other.path().join("labels.txt"), "good\nbad\n").unwrap();
    let output = room.path().join("adapter");
    let (from, to) = (first.path().to_str().unwrap(), output.to_str().unwrap());
    fine(&train(from, to, &["--epochs", "2", "--task", "t"]));
    let before = [read(&output.join("run/config.toml")), read(&output.join("run/task.json"))];
    let resume = |data: &str, more: &[&str], words: &str| {
        refused(&train(data, to, &[&["--resume"], more].concat()), 1, words);
    };
    let same = ["--epochs", "2", "--task", "t"];
    let fewer = "started with 2 epochs and has finished 2; expected --epochs 2 or more, found 1";
    resume(from, &["--epochs", "1", "--task", "t"], fewer);
    resume(from, &["--epochs", "5", "--task", "t", "--lr", "2e-3"], "the run was started with lr = 0.0015");
    resume(from, &["--epochs", "2", "--task", "cola"], "the run was started with task = \"t\"; this call has \"cola\"");
    resume(other.path().to_str().unwrap(), &same, "the run was started with labels = [\"bad\",\"good\"]");
    let rows = String::from_utf8(read(&first.path().join("train.tsv"))).unwrap();
    std::fs::remove_file(other.path().join("labels.txt")).unwrap();
    std::fs::write(other.path().join("train.tsv"), rows.replace("plot and", "plot or")).unwrap();
    resume(other.path().to_str().unwrap(), &same, "the run was started with train = ");

    // A base with the same name, but with other weights.
    let moved = room.path().join("base");
    std::fs::create_dir(&moved).unwrap();
    for name in names(&base_dir()).iter().filter(|name| base_dir().join(name).is_file()) {
        std::fs::copy(base_dir().join(name), moved.join(name)).unwrap();
    }
    let (args, output) = (train(from, to, &same), room.path().join("moved"));
    let swap = |args: &[&str]| -> Vec<String> {
        let (base, to) = (base_dir(), room.path().join("adapter"));
        let swap = |arg: &&str| match Path::new(arg) {
            path if path == base => moved.to_str().unwrap().to_owned(),
            path if path == to => output.to_str().unwrap().to_owned(),
            _ => (*arg).to_owned(),
        };
        args.iter().map(swap).collect()
    };
    let args = swap(&args);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    fine(&args);
    let mut weights = candle_core::safetensors::load(moved.join("model.safetensors"), &Device::Cpu).unwrap();
    for weight in weights.values_mut().filter(|weight| weight.dtype().is_float()) {
        *weight = (&*weight * 1.5).unwrap();
    }
    candle_core::safetensors::save(&weights, moved.join("model.safetensors")).unwrap();
    refused(&[&args[..], &["--resume"]].concat(), 1, "trained on the base sha256:c68e0511");
    let checkpoint = output.join("run/checkpoint-2");
    let pruned = room.path().join("pruned");
    refused(
        &["prune", checkpoint.to_str().unwrap(), "--output", pruned.to_str().unwrap()],
        1,
        "trained on the base sha256:c68e0511",
    );
    assert!(!pruned.exists());
    let output = room.path().join("adapter");
    assert_eq!([read(&output.join("run/config.toml")), read(&output.join("run/task.json"))], before);
    fine(&train(from, to, &[&same[..], &["--resume"]].concat()));
    // A call that names no number of epochs keeps the run's, whatever the default is.
    fine(&train(from, to, &["--task", "t", "--resume"]));
    assert_eq!([read(&output.join("run/config.toml")), read(&output.join("run/task.json"))], before);
}

/// The adapter is that of the shorter run until then, whose best epoch may be another one.
#[cfg(unix)]
#[test]
fn longer_run_is_unfinished_until_its_end() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    std::fs::remove_file(data.path().join("validation.tsv")).unwrap();
    fine(&train(from, to, &["--epochs", "2", "--validation-split", "0.25"]));
    let is_finished = || TrainedRun::read(&output).unwrap().exported.is_some();
    assert!(is_finished());
    let longer = train(from, to, &["--resume", "--epochs", "40", "--validation-split", "0.25"]);
    let mut run = Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
    let mut run = run.args(&longer).env("POLYRANK_HOME", home()).stderr(Stdio::null()).spawn().unwrap();
    let lines = || std::fs::read_to_string(output.join("run/log.jsonl")).unwrap_or_default().lines().count();
    while lines() < 3 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap().success());
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert!(!is_finished());
    // It is still known which rows were held out.
    let base = base_dir();
    let evaluate = ["evaluate", "--model-id", base.to_str().unwrap(), "--adapter", to, "--data", from, "--json"];
    assert!(fine(&evaluate).contains("\"examples\":12"));
    fine(&longer);
    assert!(is_finished());
}

/// Files may have at most a few kilobytes, which acts like a full disk. The error names the file, and no partial file is left.
#[cfg(unix)]
#[test]
fn full_disk_is_an_error_and_leaves_no_partial_checkpoint() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let args = train(data.path().to_str().unwrap(), output.to_str().unwrap(), &["--epochs", "2"]);
    let limited = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
    let mut shell = Command::new("bash");
    shell.args(["-c", limited, "bash", env!("CARGO_BIN_EXE_polyrank-train")]).args(&args);
    let output_of = shell.env("POLYRANK_HOME", room.path().join("home")).output().unwrap();
    let message = String::from_utf8_lossy(&output_of.stderr).into_owned();
    assert_eq!(output_of.status.code(), Some(1), "{message}");
    assert!(message.contains("state.safetensors") && message.contains("File too large"), "{message}");
    assert_eq!(names(&output), ["run"]);
    let left = ["config.toml", "lock", "log.jsonl", "task.json"];
    assert_eq!(names(&output.join("run")), left);
    let before = left.map(|name| read(&output.join("run").join(name)));
    // While the disk is full, the run does not continue, and loses nothing.
    let mut shell = Command::new("bash");
    shell.args(["-c", &limited.replace("-f 8", "-f 0"), "bash", env!("CARGO_BIN_EXE_polyrank-train")]).args(&args);
    let again = shell.arg("--resume").env("POLYRANK_HOME", room.path().join("home")).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    for (name, before) in left.into_iter().zip(before).filter(|(name, _)| *name != "log.jsonl") {
        assert_eq!(read(&output.join("run").join(name)), before, "{name}");
    }
    // Once there is room again, the run continues from its state, which is the beginning.
    fine(&train(data.path().to_str().unwrap(), output.to_str().unwrap(), &["--epochs", "2", "--resume"]));
    assert_eq!(log(&output).len(), 2);
}
