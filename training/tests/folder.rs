//! The output folder: which folders a run accepts, which files it writes, and which it never changes.

use std::fs;
use std::path::Path;

use polyrank_training::data::{DataOptions, TaskData};
use polyrank_training::run::LockedOutput;
use tempfile::TempDir;

use super::run::{data, fine, log, names, read, refused, train};
use super::{base_dir, engine};

const ADAPTER: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", "config.json"];

/// Of several files that may hold the validation split, the first counts.
#[test]
fn validation_files_have_an_order() {
    let (room, files) = (TempDir::new().unwrap(), ["validation.tsv", "validation_matched.tsv", "dev.tsv"]);
    let rows = |text: &str| format!("label\tsentence\n0\t{text}\n1\tother\n");
    for name in ["train.tsv"].iter().chain(&files) {
        fs::write(room.path().join(name), rows(name)).unwrap();
    }
    for name in files {
        let data = TaskData::load(room.path(), &DataOptions::default()).unwrap();
        assert_eq!(data.validation[0].examples[0].text, name);
        fs::remove_file(room.path().join(name)).unwrap();
    }
}

#[test]
fn overwrite_replaces_only_adapters_and_runs() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let from = data.path().to_str().unwrap();
    let args = |to: &Path| -> Vec<String> {
        train(from, to.to_str().unwrap(), &["--overwrite", "--epochs", "1"]).into_iter().map(str::to_owned).collect()
    };
    let foreign = |to: &Path, words: &str| {
        let args = args(to);
        refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), 1, words);
    };
    // The folder of a base.
    let base = room.path().join("base");
    fs::create_dir(&base).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(base_dir().join(name), base.join(name)).unwrap();
    }
    foreign(&base, "config.json belongs to neither an adapter nor a run");
    assert_eq!(names(&base), ["config.json", "model.safetensors", "tokenizer.json"]);
    // The folder of another program.
    let project = room.path().join("project");
    fs::create_dir_all(project.join("run")).unwrap();
    fs::write(project.join("run/precious.txt"), "mine").unwrap();
    foreign(&project, "run belongs to neither an adapter nor a run");
    assert_eq!(read(&project.join("run/precious.txt")), b"mine");
}

/// A process that is killed while it writes a model leaves a folder without weights. The error says how to get them.
#[test]
fn model_without_weights_says_how_to_write_them() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let [output, pruned] = ["model", "pruned"].map(|name| room.path().join(name));
    let (from, to, base) = (data.path().to_str().unwrap(), output.to_str().unwrap(), base_dir());
    let mut run = train(from, to, &["--method", "full", "--epochs", "1"]);
    run.retain(|arg| !["--rank", "6"].contains(arg));
    fine(&run);
    let checkpoint = output.join("run/checkpoint-1");
    fine(&["prune", checkpoint.to_str().unwrap(), "--output", pruned.to_str().unwrap()]);
    let evaluate = |adapter: &Path| {
        let args = ["evaluate", "--model-id", base.to_str().unwrap(), "--data", from, "--adapter"];
        [&args[..], &[adapter.to_str().unwrap()]].concat().into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    for (dir, words) in [
        (&output, "model: it has no weights, because its run has not written them; --resume continues the run"),
        (&pruned, "pruned: it has no weights, because the command that wrote the folder was ended; repeat it with an"),
    ] {
        fs::remove_file(dir.join("model.safetensors")).unwrap();
        let args = evaluate(dir);
        refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), 1, words);
    }
    run.push("--resume");
    fine(&run);
    let args = evaluate(&output);
    fine(&args.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A server can use the old adapter until then, and a run that fails does not remove it.
#[test]
fn adapter_stays_until_the_new_one_is_written() {
    let (data, room) = (data(), TempDir::new().unwrap());
    fs::remove_file(data.path().join("validation.tsv")).unwrap();
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    fine(&train(from, to, &["--epochs", "1", "--validation-split", "0.25"]));
    let before = ADAPTER.map(|name| read(&output.join(name)));
    let again = ["--overwrite", "--epochs", "1", "--validation-split", "0.5"];
    refused(&train(from, to, &[&again[..], &["--lr", "1e30"]].concat()), 1, "the loss is");
    assert_eq!(ADAPTER.map(|name| read(&output.join(name))), before);
    // The rows that the failed run held out do not belong to the adapter in the folder.
    let base = base_dir();
    let evaluate = ["evaluate", "--model-id", base.to_str().unwrap(), "--adapter", to, "--data", from, "--json"];
    refused(&evaluate, 1, "no labelled split \"validation\"");
    fine(&train(from, to, &again));
    assert_ne!(read(&output.join(ADAPTER[1])), before[1]);
    assert!(fine(&evaluate).contains("\"examples\":24"));
}

#[test]
fn resume_needs_a_run() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    let resume = train(from, to, &["--resume", "--epochs", "1"]);
    // `--resume` in an empty folder starts a run, so that a job that is restarted uses the same command each time.
    fine(&resume);
    // Without its checkpoints, a run would begin anew.
    let log = read(&output.join("run/log.jsonl"));
    for checkpoint in names(&output.join("run")).iter().filter(|name| name.starts_with("checkpoint-")) {
        fs::remove_dir_all(output.join("run").join(checkpoint)).unwrap();
    }
    refused(&resume, 1, "the checkpoints of the run in");
    assert_eq!(read(&output.join("run/log.jsonl")), log);
    fs::remove_dir_all(output.join("run")).unwrap();
    let before = read(&output.join(ADAPTER[1]));
    refused(&resume, 1, "has no run to continue");
    assert_eq!((read(&output.join(ADAPTER[1])), names(&output)), (before, ADAPTER.map(str::to_owned).to_vec()));
}

#[test]
fn only_one_process_trains_in_a_folder() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    fine(&train(from, to, &["--epochs", "1"]));
    let left = names(&output.join("run"));
    let lock = fs::File::open(output.join("run/lock")).unwrap();
    lock.try_lock().unwrap();
    for existing in ["--resume", "--overwrite"] {
        refused(&train(from, to, &["--epochs", "1", existing]), 1, "run: another process trains here");
    }
    assert_eq!(names(&output.join("run")), left);
    drop(lock);
    fine(&train(from, to, &["--epochs", "1", "--overwrite"]));
}

/// Each of two runs has its own folder, and both would write to one.
#[test]
#[cfg(unix)]
fn only_one_command_writes_to_a_folder() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let (output, run, pruned) = (room.path().join("adapter"), room.path().join("run"), room.path().join("pruned"));
    let [from, to, run, pruned] = [data.path(), &output, &run, &pruned].map(|path| path.to_str().unwrap());
    let first = LockedOutput::new(&output).unwrap();
    let busy = "adapter: another process trains here, or writes its result";
    refused(&train(from, to, &["--epochs", "1", "--run-dir", run]), 1, busy);
    assert!(names(&output).is_empty());
    drop(first);
    assert!(!output.exists());
    fine(&train(from, to, &["--epochs", "1", "--run-dir", run]));
    let checkpoint = format!("{run}/checkpoint-1");
    let prune = ["prune", &checkpoint, "--output", pruned];
    let first = LockedOutput::new(Path::new(pruned)).unwrap();
    refused(&prune, 1, "pruned: another process");
    drop(first);
    // What a killed writer left is no reason against it.
    fs::create_dir(pruned).unwrap();
    fs::write(Path::new(pruned).join(".writing-abc"), "x").unwrap();
    fine(&prune);
    assert_eq!(names(Path::new(pruned)), ADAPTER);
    refused(&prune, 1, "pruned is not empty");
}

/// The base may have moved, the command may run inside the checkpoint's folder, and other users can read the files.
#[test]
fn prunes_a_checkpoint_from_anywhere() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let (first, moved) = (room.path().join("first"), room.path().join("moved"));
    fs::create_dir(&first).unwrap();
    for name in names(&base_dir()).iter().filter(|name| base_dir().join(name).is_file()) {
        fs::copy(base_dir().join(name), first.join(name)).unwrap();
    }
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    fine(
        &[
            &train(from, to, &["--epochs", "1"])[..1],
            &["--model-id", first.to_str().unwrap()],
            &train(from, to, &["--epochs", "1"])[3..],
        ]
        .concat(),
    );
    fs::rename(&first, &moved).unwrap();
    let checkpoint = output.join("run/checkpoint-1");
    let pruned = room.path().join("pruned");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
    command.current_dir(&checkpoint).env("POLYRANK_HOME", super::home());
    command.args(["prune", ".", "--model-id", moved.to_str().unwrap(), "--output", pruned.to_str().unwrap()]);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(read(&pruned.join(ADAPTER[1])), read(&output.join(ADAPTER[1])));
    // The adapter's folder is not the checkpoint, but shows where one is.
    let hint = format!("expected the folder checkpoint-N of a run, such as {}", checkpoint.display());
    refused(&["prune", to, "--output", "/nowhere/at/all"], 1, &hint);
    refused(
        &["prune", from, "--output", "/nowhere/at/all"],
        1,
        "is not a checkpoint: expected the folder checkpoint-N of a run",
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        let plain = room.path().join("plain");
        fs::write(&plain, "").unwrap();
        for name in ["state.safetensors", "state.json"] {
            assert_eq!(mode(&checkpoint.join(name)), mode(&plain), "{name}");
        }
    }
}

/// A batch has 360 tokens and a micro-batch at least 128, so that the threads share several micro-batches.
#[test]
fn number_of_threads_does_not_change_a_run() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let engine = engine();
    let rows = String::from_utf8(read(&data.path().join("train.tsv"))).unwrap();
    let limit = polyrank::text::Limit::TRUNCATE;
    let tokens = rows.lines().skip(1).map(|row| {
        let (_, text) = row.split_once('\t').unwrap();
        engine.encode(text, None, &limit).unwrap().ids.len()
    });
    assert!(
        tokens.sum::<usize>() * 40 / 48 > 2 * polyrank::engine::micro_batches::TOKENS,
        "two micro-batches at least"
    );
    let run = |threads: &str| {
        let output = room.path().join(threads);
        let more = ["--epochs", "3", "--dropout", "0.1", "--batch-size", "40"];
        let mut args = train(data.path().to_str().unwrap(), output.to_str().unwrap(), &[]);
        let batch = args.iter().position(|arg| *arg == "--batch-size").unwrap();
        args.drain(batch..batch + 2);
        args.extend(more);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
        let done =
            command.args(args).env("POLYRANK_HOME", super::home()).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        (log(&output), ADAPTER.map(|name| read(&output.join(name))))
    };
    let one = run("1");
    assert!(run("3") == one, "three threads make another adapter than one");
}

/// The adapter's folder then has only the files that are served.
#[test]
fn run_dir_holds_the_log_and_the_checkpoints() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let (output, run, base) = (room.path().join("adapter"), room.path().join("runs/one"), base_dir());
    let (from, to, at) = (data.path().to_str().unwrap(), output.to_str().unwrap(), run.to_str().unwrap());
    let args = |more: &[&'static str]| -> Vec<String> {
        let args = train(from, to, &["--epochs", "2", "--validation-split", "0.25", "--run-dir", at]);
        args.into_iter().chain(more.iter().copied()).map(str::to_owned).collect()
    };
    let strs = |args: &[String]| -> Vec<&'static str> {
        args.iter().map(|arg| -> &'static str { Box::leak(arg.clone().into_boxed_str()) }).collect()
    };
    fs::remove_file(data.path().join("validation.tsv")).unwrap();
    fine(&strs(&args(&[])));
    assert_eq!(names(&output), ADAPTER);
    let files = names(&run);
    assert!(
        ["config.toml", "log.jsonl", "task.json", "checkpoint-2"].iter().all(|name| files.contains(&(*name).into()))
    );
    fine(&strs(&args(&["--resume"])));
    // A mistyped output replaces no other adapter; an empty one gets the run's.
    let other = room.path().join("other");
    let mut mistyped = strs(&args(&["--resume"]));
    *mistyped.iter_mut().find(|arg| **arg == to).unwrap() =
        Box::leak(other.to_string_lossy().into_owned().into_boxed_str());
    fs::create_dir(&other).unwrap();
    fs::write(other.join("config.json"), "{}").unwrap();
    refused(&mistyped, 1, "other, which is not empty");
    assert_eq!(names(&other), ["config.json"]);
    // With `--run-dir`, `evaluate` finds the rows that the run held out.
    let evaluate = ["evaluate", "--model-id", base.to_str().unwrap(), "--adapter", to, "--data", from, "--json"];
    refused(&evaluate, 1, "no labelled split \"validation\"");
    assert!(fine(&[&evaluate[..], &["--run-dir", at]].concat()).contains("\"examples\":12"));
    let mistaken = ["evaluate", "--model-id", base.to_str().unwrap(), "--adapter", at, "--data", from];
    refused(&mistaken, 1, &format!("it is the folder of a run (--run-dir), whose adapter is in {to}"));
    // Its checkpoints can be pruned, too.
    let pruned = room.path().join("pruned");
    fine(&["prune", run.join("checkpoint-2").to_str().unwrap(), "--output", pruned.to_str().unwrap()]);
    // Only the run's own files are replaced.
    fs::write(run.join("notes.txt"), "mine").unwrap();
    fine(&strs(&args(&["--overwrite"])));
    assert_eq!(read(&run.join("notes.txt")), b"mine");
    // A run in the usual place, which another run's adapter replaces, is no longer beside it.
    fine(&train(from, to, &["--epochs", "1", "--validation-split", "0.25", "--overwrite"]));
    fine(&evaluate);
    fine(&strs(&args(&["--overwrite"])));
    refused(&evaluate, 1, "no labelled split \"validation\"");
    // The usual place may be named in another way.
    let again = room.path().join("runs/../adapter/run");
    fine(&train(
        from,
        to,
        &["--epochs", "1", "--validation-split", "0.25", "--overwrite", "--run-dir", again.to_str().unwrap()],
    ));
    fine(&evaluate);
    fine(&strs(&args(&["--overwrite"])));
    // If either folder is not empty, `--resume` or `--overwrite` is needed.
    refused(&strs(&args(&[])), 1, "adapter is not empty");
    fs::remove_dir_all(&output).unwrap();
    refused(&strs(&args(&[])), 1, "one is not empty");
}

#[test]
fn keep_checkpoints_keeps_those_of_all_epochs() {
    let (data, room) = (data(), TempDir::new().unwrap());
    for (more, expected) in [(&["--keep-checkpoints"][..], 4), (&[], 2)] {
        let output = room.path().join(expected.to_string());
        let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
        fine(&train(from, to, &[&["--epochs", "4", "--method", "lora", "--lr", "1e-9"], more].concat()));
        let checkpoints = names(&output.join("run")).into_iter().filter(|name| name.starts_with("checkpoint-"));
        let checkpoints: Vec<String> = checkpoints.collect();
        assert!(checkpoints.len() <= expected && checkpoints.contains(&"checkpoint-4".to_owned()), "{checkpoints:?}");
        assert!(expected == 2 || checkpoints.len() == 4, "{checkpoints:?}");
    }
}

/// `AutoConfig.from_pretrained` then reads the adapter's folder as the configuration of the classifier.
#[test]
fn adapters_config_json_describes_its_base() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    fine(&train(data.path().to_str().unwrap(), output.to_str().unwrap(), &["--epochs", "1"]));
    let json = |path: &Path| serde_json::from_slice::<serde_json::Value>(&read(path)).unwrap();
    let (config, base) = (json(&output.join("config.json")), json(&base_dir().join("config.json")));
    for key in ["model_type", "hidden_size", "num_hidden_layers", "vocab_size", "layer_norm_eps"] {
        assert_eq!(config[key], base[key], "{key}");
    }
    assert_eq!(config["id2label"], serde_json::json!({ "0": "bad", "1": "good" }));
    assert_eq!(config["problem_type"], "single_label_classification");
    assert!(config.get("architectures").is_none());
}
