//! Schedules of `polyrank-train` on the tiny base: stages, resumption, and refused calls.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use polyrank_training::report::TrainedRun;
use serde_json::Value;
use tempfile::TempDir;

use super::run::{data, fine, log, names, read, refused, train};
use super::{base_dir, home};

/// The arguments of a schedule over the thresholds 0.01, 0.03 and 0.05.
fn schedule<'a>(data: &'a str, output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = train(data, output, &["--epochs", "2", "--xi0", "0.01", "--xi-step", "0.02", "--stage-epochs", "2"]);
    args[0] = "schedule";
    args.extend(more);
    args
}

fn stages(output: &Path) -> Vec<Value> {
    let text = String::from_utf8(read(&output.join("schedule.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Starts a schedule and kills it as soon as the first epoch of stage 1 has ended.
fn killed(args: &[&str], output: &Path) {
    let mut run = Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
    let mut run =
        run.args(args).env("POLYRANK_HOME", home()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !output.join("stage-1/run/checkpoint-1").is_dir() {
        assert!(run.try_wait().unwrap().is_none(), "the schedule ended first");
        std::thread::sleep(Duration::from_millis(1));
    }
    run.kill().unwrap();
    assert!(!run.wait().unwrap().success() && stages(output).len() == 1, "it was killed in stage 1");
}

/// Every stage is an adapter with a run of its own, and goes on from the last epoch of the stage before it. A schedule that was killed
/// and resumed gives the same files.
#[test]
fn every_stage_is_an_adapter_and_a_resumed_schedule_gives_the_same() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let from = data.path().to_str().unwrap();
    let (whole, parted) = (room.path().join("whole"), room.path().join("parted"));
    let more = ["--xi-max", "0.05", "--train-sample", "30", "--log-every", "1"];
    fine(&schedule(from, whole.to_str().unwrap(), &more));
    assert_eq!(names(&whole), ["schedule.jsonl", "stage-0", "stage-1", "stage-2"]);
    let found = stages(&whole);
    let column = |name: &str| found.iter().map(|stage| stage[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("stage"), [0, 1, 2]);
    let xi: Vec<f64> = column("xi").iter().map(|xi| xi.as_f64().unwrap()).collect();
    assert!(xi.iter().zip([0.01, 0.03, 0.05]).all(|(found, expected)| (found - expected).abs() < 1e-9), "{xi:?}");
    let parameters: Vec<u64> = column("parameters").iter().map(|count| count.as_u64().unwrap()).collect();
    assert!(parameters.is_sorted_by(|a, b| a > b), "a larger threshold removes more: {parameters:?}");
    assert_eq!(found[0]["percent"]["parameters"], 100.0);
    let share = found[2]["percent"]["parameters"].as_f64().unwrap();
    assert!((share - 100.0 * parameters[2] as f64 / parameters[0] as f64).abs() < 1e-9);
    for (number, stage) in found.iter().enumerate() {
        let adapter = whole.join(format!("stage-{number}"));
        let config: toml::Table = String::from_utf8(read(&adapter.join("run/config.toml"))).unwrap().parse().unwrap();
        assert_eq!((config["xi"].as_float(), config["select"].as_str()), (stage["xi"].as_f64(), Some("last")));
        assert_eq!(names(&adapter.join("run")).iter().filter(|name| name.starts_with("checkpoint-")).count(), 1);
        assert_eq!(log(&adapter)[1]["parameters"], stage["parameters"]);
        let base = base_dir();
        let args =
            ["evaluate", "--model-id", base.to_str().unwrap(), "--adapter", adapter.to_str().unwrap(), "--data", from];
        let evaluation: Value = serde_json::from_str(&fine(&args)).unwrap();
        assert_eq!(evaluation["metrics"], stage["validation"]);
    }
    // Each stage goes on where the one before it ended, and its learning rate starts anew.
    let steps = |stage: usize| -> Vec<Value> {
        let text = String::from_utf8(read(&whole.join(format!("stage-{stage}/run/steps.jsonl")))).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let rates = |stage: usize| steps(stage).iter().map(|step| step["rate"].clone()).collect::<Vec<_>>();
    assert!(rates(0).len() > 2 && rates(0) == rates(1), "{:?} {:?}", rates(0), rates(1));
    // With the variables of the start, the first loss would be the same: all stages have the same order of rows and dropout.
    let first_loss = |stage: usize| steps(stage)[0]["loss"].as_f64().unwrap();
    assert!(first_loss(1) < first_loss(0) - 1e-3, "{} {}", first_loss(0), first_loss(1));
    let args = schedule(from, parted.to_str().unwrap(), &more);
    killed(&args, &parted);
    fine(&[&args[..], &["--resume"]].concat());
    assert_eq!(read(&parted.join("schedule.jsonl")), read(&whole.join("schedule.jsonl")));
    for stage in ["stage-0", "stage-1", "stage-2"] {
        for name in ["adapter_model.safetensors", "adapter_config.json", "run/config.toml"] {
            assert_eq!(read(&parted.join(stage).join(name)), read(&whole.join(stage).join(name)), "{stage}/{name}");
        }
        assert_eq!(log(&parted.join(stage)), log(&whole.join(stage)));
    }
    // A schedule may be made longer, but its finished stages must have the same thresholds.
    let other = schedule(from, whole.to_str().unwrap(), &[&more[..], &["--spacing", "exp", "--resume"]].concat());
    refused(&other, 1, "the run was started with xi = 0.03; this call has 0.022");
    let other = schedule(from, whole.to_str().unwrap(), &["--xi-max", "0.05", "--train-sample", "20", "--resume"]);
    refused(&other, 1, "schedule.jsonl: the run was started with train_sample = 30; this call has 20");
    // Only the last stage is continued, so that the others need no checkpoints.
    std::fs::remove_dir_all(whole.join("stage-0/run/checkpoint-2")).unwrap();
    let longer = ["--xi-max", "0.07", "--train-sample", "30", "--resume"];
    fine(&schedule(from, whole.to_str().unwrap(), &longer));
    assert_eq!((stages(&whole).len(), &stages(&whole)[..3]), (4, &found[..]));
    // Nor does it become shorter, whether the last stages are finished or have only begun.
    let shorter = schedule(from, whole.to_str().unwrap(), &[&more[..], &["--resume"]].concat());
    refused(&shorter, 1, "whole: the schedule has begun 4 stages; the thresholds of this call give 3");
    deleted_stages(&whole, &schedule(from, whole.to_str().unwrap(), &longer));
    refused(&schedule(from, whole.to_str().unwrap(), &more), 1, "is not empty");
    #[cfg(unix)]
    {
        let _other = polyrank_training::run::LockedOutput::new(&whole).unwrap();
        let overwrite = ["--xi-max", "0.05", "--overwrite"];
        refused(&schedule(from, whole.to_str().unwrap(), &overwrite), 1, "whole: another process");
    }
    let overwrite = ["--xi-max", "0.05", "--overwrite", "--target-modules", "nope"];
    refused(&schedule(from, whole.to_str().unwrap(), &overwrite), 1, "unknown module \"nope\"");
    assert_eq!(stages(&whole).len(), 4, "nothing was removed");
    std::fs::write(whole.join("notes.txt"), "mine").unwrap();
    refused(
        &schedule(from, whole.to_str().unwrap(), &["--xi-max", "0.05", "--overwrite"]),
        1,
        "notes.txt belongs to neither",
    );
    assert_eq!(stages(&whole).len(), 4, "nothing was removed");
    // What a call leaves that is killed while it removes stages is replaced, too.
    std::fs::remove_file(whole.join("notes.txt")).unwrap();
    std::fs::remove_file(whole.join("stage-1/adapter_config.json")).unwrap();
    std::fs::remove_dir_all(whole.join("stage-2")).unwrap();
    std::fs::create_dir(whole.join("stage-2")).unwrap();
    fine(&schedule(from, whole.to_str().unwrap(), &[&more[..], &["--overwrite"]].concat()));
    assert_eq!(stages(&whole), found);
}

/// A deleted stage is made again from the stage before it, and so is an adapter from its own checkpoint. `args` continue the schedule in
/// `whole`, whose first stage has no checkpoint.
fn deleted_stages(whole: &Path, args: &[&str]) {
    let lines = read(&whole.join("schedule.jsonl"));
    let weights = |stage: usize| whole.join(format!("stage-{stage}/adapter_model.safetensors"));
    let before: Vec<Vec<u8>> = (0..4).map(|stage| read(&weights(stage))).collect();
    for deleted in [whole.join("stage-2"), whole.join("stage-3")] {
        std::fs::remove_dir_all(deleted).unwrap();
    }
    std::fs::remove_file(weights(1)).unwrap();
    fine(args);
    let after: Vec<Vec<u8>> = (0..4).map(|stage| read(&weights(stage))).collect();
    assert!(after == before && read(&whole.join("schedule.jsonl")) == lines, "the same stages");
    let away = whole.with_extension("away");
    std::fs::rename(whole.join("stage-1"), &away).unwrap();
    refused(args, 1, "stage-1 was deleted, and cannot be made again without the checkpoint of ");
    std::fs::rename(&away, whole.join("stage-1")).unwrap();
}

/// The schedule, which is replaced here, ends once no gate is left.
#[test]
fn schedule_ends_once_no_gate_is_left() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let (from, output) = (data.path().to_str().unwrap(), room.path().join("curve"));
    for (xi, overwrite) in [("9", &[][..]), ("1", &["--overwrite"])] {
        let mut args =
            train(from, output.to_str().unwrap(), &["--epochs", "1", "--gate", "paper", "--stage-epochs", "1"]);
        args[0] = "schedule";
        args.extend(["--xi0", xi, "--xi-max", "99", "--xi-step", "9"]);
        args.extend(overwrite);
        let mut command = Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
        let done = command.args(&args).env("POLYRANK_HOME", home()).output().unwrap();
        let [shown, told] = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(told.contains("no gate is left after stage 0"), "{told}");
        assert!(told.contains("stage        xi parameters"), "{told}");
        let found = stages(&output);
        assert_eq!(
            (found.len(), &found[0]["parameters"], &found[0]["xi"]),
            (1, &0.into(), &xi.parse::<f64>().unwrap().into())
        );
        // The files hold one rank, which changes nothing and does not count: PEFT's format has no rank 0.
        let words = ["parameters    0 (0 as the paper's code counts)", "no rank is left; the files hold one"];
        assert!(words.iter().all(|words| shown.contains(words)), "{shown}");
    }
    let (base, adapter) = (base_dir(), output.join("stage-0"));
    let args = ["evaluate", "--model-id", base.to_str().unwrap(), "--adapter", adapter.to_str().unwrap()];
    let evaluation: Value = serde_json::from_str(&fine(&[&args[..], &["--data", from]].concat())).unwrap();
    assert_eq!((&evaluation["parameters"]["adapter"], &log(&adapter)[0]["parameters"]), (&0.into(), &0.into()));
    let exported = TrainedRun::read(&adapter).unwrap().exported.unwrap();
    assert_eq!((exported.parameters, exported.paper), (0, Some(0)));
    assert!(exported.ranks.iter().all(|(_, ranks)| ranks.iter().all(|rank| *rank == 0)), "{:?}", exported.ranks);
}

#[test]
fn settings_that_contradict_a_schedule_are_refused() {
    let data = data();
    let from = data.path().to_str().unwrap();
    for (more, words) in [
        (&["--xi", "0.1"][..], "schedule: expected no threshold but --xi0, --xi-max and --xi-step, found --xi"),
        (&["--target-params", "5000"], "found --target-params"),
        (&["--gate", "adaptive"], "--gate: expected paper or authors"),
        (&["--method", "lora"], "--method: expected sora"),
        (&["--patience", "2"], "schedule: expected no --patience, because each stage keeps its last epoch, found 2"),
        (&["--run-dir", "elsewhere"], "--run-dir: expected none"),
        (&["--stage-epochs", "0"], "--stage-epochs: expected 1 or more"),
        (&["--xi0", "2"], "--xi-max: expected --xi0 (2) or more, found 1"),
    ] {
        let mut args = train(from, "/nowhere/at/all", &["--xi-max", "1", "--xi-step", "1"]);
        args[0] = "schedule";
        args.extend(more);
        refused(&args, 1, words);
    }
}
