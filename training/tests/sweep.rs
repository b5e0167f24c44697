//! Sweeps of `polyrank-train` on the tiny base, and the report on their runs.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::run::{data, fine, log, names, polyrank_train, read, refused, train};
use super::{base_dir, home};

/// A folder with two tasks, of which `second` has a test split, and the file of a sweep over them.
fn room() -> TempDir {
    let room = TempDir::new().unwrap();
    for task in ["first", "second"] {
        let folder = room.path().join("data").join(task);
        std::fs::create_dir_all(&folder).unwrap();
        let made = data();
        for name in ["train.tsv", "validation.tsv"] {
            std::fs::copy(made.path().join(name), folder.join(name)).unwrap();
        }
    }
    let second = room.path().join("data/second");
    std::fs::copy(second.join("validation.tsv"), second.join("test.tsv")).unwrap();
    file(&room, "seeds = [0, 1]");
    room
}

fn file(room: &TempDir, more: &str) {
    let text = format!(
        "data_root = \"data\"\ntasks = [\"first\", \"second\"]\nmethods = [\"lora\", \"sora\"]\nmodel_id = {:?}\nranks = [4]\n\
         epochs = 3\nbatch_size = 8\n{more}\n[task.second]\nmax_train_samples = 24\n",
        base_dir()
    );
    std::fs::write(room.path().join("sweep.toml"), text).unwrap();
}

fn command(room: &TempDir, output: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
    command.args(["sweep", "sweep.toml", "--cores", "2", "--at-once", "2", "--output", output]);
    command.current_dir(room.path()).env("POLYRANK_HOME", home()).stderr(Stdio::piped());
    command
}

fn told(output: Output, code: i32) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    message
}

/// The lines of `results.jsonl`, without durations and without the folder of runs.
fn results(runs: &Path) -> Vec<Value> {
    let text = String::from_utf8(read(&runs.join("results.jsonl"))).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        assert!(line["seconds"].as_f64().unwrap() > 0.0 && line["tokens_per_second"].as_f64().unwrap() > 0.0);
        let durations = ["seconds", "tokens_per_second"];
        for epoch in line["log"].as_array_mut().unwrap() {
            durations.iter().for_each(|key| drop(epoch.as_object_mut().unwrap().remove(*key)));
        }
        durations.iter().chain(&["output", "command"]).for_each(|key| drop(line.remove(*key)));
    }
    lines
}

/// Starts the sweep, and waits until it has said so, which is after it listens for signals, and until a run has finished an epoch that
/// had not before.
#[cfg(unix)]
fn begun(room: &TempDir, output: &str) -> std::process::Child {
    let epochs = || {
        let runs = ["first", "second"].map(|task| room.path().join(output).join(task));
        let folders = runs.iter().filter_map(|task| std::fs::read_dir(task).ok()).flatten();
        let logs = folders.filter_map(|run| std::fs::read_to_string(run.unwrap().path().join("run/log.jsonl")).ok());
        logs.map(|log| log.lines().count()).sum::<usize>()
    };
    let before = epochs();
    let mut child = command(room, output).spawn().unwrap();
    // A byte at a time, so that the rest is left to others.
    let mut byte = [0];
    while byte != *b"\n" {
        child.stderr.as_mut().unwrap().read_exact(&mut byte).unwrap();
    }
    while epochs() <= before {
        assert!(child.try_wait().unwrap().is_none(), "the sweep ended first");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[cfg(unix)]
#[test]
fn sweep_killed_and_stopped_under_way_gives_the_same_results() {
    let room = room();
    let (whole, parted) = (room.path().join("whole"), room.path().join("parted"));
    let message = told(command(&room, "whole").output().unwrap(), 0);
    assert!(message.contains("8 of 8 runs are finished"), "{message}");
    // The runs of a sweep that is killed go on by themselves. The next sweep waits for them.
    let mut killed = begun(&room, "parted");
    killed.kill().unwrap();
    assert!(!killed.wait().unwrap().success());
    let stopped = begun(&room, "parted");
    assert!(Command::new("kill").args(["-INT", &stopped.id().to_string()]).status().unwrap().success());
    let message = told(stopped.wait_with_output().unwrap(), 130);
    assert!(message.contains("of 8 runs finished; continue the sweep with\n"), "{message}");
    assert!(message.trim_end().ends_with("--output parted"), "{message}");
    told(command(&room, "parted").output().unwrap(), 0);

    let expected = results(&whole);
    assert_eq!(results(&parted), expected);
    let found: Vec<&str> = expected.iter().map(|line| line["name"].as_str().unwrap()).collect();
    let runs = ["first/lora-r4", "first/sora-r4", "second/lora-r4", "second/sora-r4"];
    assert_eq!(found, [0, 1].iter().flat_map(|seed| runs.map(|run| format!("{run}-s{seed}"))).collect::<Vec<_>>());
    for name in &found {
        assert_eq!(log(&parted.join(name)), log(&whole.join(name)), "{name}");
        let weights = |runs: &Path| read(&runs.join(name).join("adapter_model.safetensors"));
        assert_eq!(weights(&parted), weights(&whole), "{name}");
        let facts: Value = serde_json::from_slice(&read(&whole.join(name).join("run/task.json"))).unwrap();
        assert_eq!(facts["train"]["examples"], if name.starts_with("first") { 48 } else { 24 });
    }
    // The test split is the validation split here.
    for line in &expected {
        let test = if line["task"] == "second" { line["validation"].clone() } else { Value::Null };
        assert_eq!(line["test"], test);
        let entry = &log(&whole.join(line["name"].as_str().unwrap()))[line["epoch"].as_u64().unwrap() as usize - 1];
        assert_eq!((&line["validation"], &line["parameters"]), (&entry["metrics"], &entry["parameters"]));
    }
    // Finished runs are known, and nothing is run again.
    let before = read(&whole.join("results.jsonl"));
    let message = told(command(&room, "whole").output().unwrap(), 0);
    assert!(message.contains("8 runs, 8 of them finished") && !message.contains("started"), "{message}");
    assert_eq!(read(&whole.join("results.jsonl")), before);
    // A run on data that has changed since is not taken for finished.
    let train = room.path().join("data/first/train.tsv");
    let rows = String::from_utf8(read(&train)).unwrap();
    std::fs::write(&train, rows.replace("plot and", "plot or")).unwrap();
    let message = told(command(&room, "whole").output().unwrap(), 1);
    let refused =
        "failed: first/lora-r4-s0: --resume: whole/first/lora-r4-s0/run/task.json: the run was started with train = ";
    assert!(
        message.contains("8 runs, 4 of them finished; 4 were finished with other settings")
            && message.contains(refused),
        "{message}"
    );
    assert_eq!(read(&whole.join("results.jsonl")), before);
    std::fs::write(&train, rows).unwrap();
    // A finished run is not begun anew without its checkpoints.
    let (run, away) = (whole.join("first/lora-r4-s0/run"), room.path().join("checkpoints"));
    std::fs::create_dir(&away).unwrap();
    let checkpoints: Vec<String> = names(&run).into_iter().filter(|name| name.starts_with("checkpoint-")).collect();
    checkpoints.iter().for_each(|name| std::fs::rename(run.join(name), away.join(name)).unwrap());
    let log = read(&run.join("log.jsonl"));
    told(command(&room, "whole").output().unwrap(), 0);
    assert_eq!((read(&whole.join("results.jsonl")), read(&run.join("log.jsonl"))), (before.clone(), log));
    checkpoints.iter().for_each(|name| std::fs::rename(away.join(name), run.join(name)).unwrap());
    // A finished run is not replaced by one with another setting.
    file(&room, "seeds = [0]\nalpha = 3");
    let message = told(command(&room, "whole").output().unwrap(), 1);
    let refused = "failed: first/sora-r4-s0: --resume: whole/first/sora-r4-s0/run/config.toml: the run was started with alpha = 16.0";
    assert!(message.contains(refused) && message.contains("error: 4 of 4 runs failed"), "{message}");
    assert_eq!(read(&whole.join("results.jsonl")), before);
    // Nor is it made longer, which would train it otherwise than the runs of new seeds.
    let path = room.path().join("sweep.toml");
    file(&room, "seeds = [0]");
    std::fs::write(&path, String::from_utf8(read(&path)).unwrap().replace("epochs = 3", "epochs = 4")).unwrap();
    let refused = "failed: first/sora-r4-s0: whole/first/sora-r4-s0/run/config.toml: the run was started with epochs = 3; the sweep has 4, ";
    // Neither by the sweep nor by the commands of its list.
    for more in [&[][..], &["--list"]] {
        let output = command(&room, "whole").args(more).output().unwrap();
        assert_eq!(output.stdout, b"");
        let message = told(output, 1);
        assert!(message.contains(refused) && message.contains("error: 4 of 4 runs failed"), "{message}");
    }
    assert_eq!(read(&whole.join("results.jsonl")), before);
    recorded(&room, &whole);
    reported(&room, &whole);
}

/// `results.jsonl` without the folders of its runs gives the same tables and rank maps.
fn recorded(room: &TempDir, runs: &Path) {
    let alone = room.path().join("alone");
    std::fs::create_dir(&alone).unwrap();
    std::fs::copy(runs.join("results.jsonl"), alone.join("results.jsonl")).unwrap();
    let [of_folders, of_results] = [runs, &alone].map(|runs| {
        let output = room.path().join(format!("report-{}", runs.file_name().unwrap().display()));
        fine(&["report", runs.to_str().unwrap(), "--output", output.to_str().unwrap()]);
        output
    });
    let same: Vec<String> =
        names(&of_folders).into_iter().filter(|name| name.ends_with(".csv") || name.starts_with("ranks-")).collect();
    assert!(
        ["runs.csv", "table1.csv", "table1-test.csv", "table4.csv"].iter().all(|name| same.contains(&(*name).into()))
    );
    for name in same {
        assert_eq!(read(&of_results.join(&name)), read(&of_folders.join(&name)), "{name}");
    }
    let text = String::from_utf8(read(&of_results.join("report.md"))).unwrap();
    assert!(
        text.contains("- known from results.jsonl alone, without their steps: 8 runs (first/lora-r4-s0, "),
        "{text}"
    );
    // So does a run without its checkpoints, which take most of its space.
    let name = "first/lora-r4-s0/run";
    std::fs::create_dir_all(alone.join("first")).unwrap();
    let copied = Command::new("cp").arg("-r").args([runs.join("first/lora-r4-s0"), alone.join("first/")]).status();
    assert!(copied.unwrap().success());
    for checkpoint in names(&alone.join(name)).into_iter().filter(|name| name.starts_with("checkpoint-")) {
        std::fs::remove_dir_all(alone.join(name).join(checkpoint)).unwrap();
    }
    fine(&["report", alone.to_str().unwrap(), "--output", of_results.to_str().unwrap()]);
    assert_eq!(read(&of_results.join("runs.csv")), read(&of_folders.join("runs.csv")));
    // Lines of other programs are left out. Other lines that cannot be read are left out, too, and told.
    let (path, lines) = (alone.join("results.jsonl"), read(&runs.join("results.jsonl")));
    let of_alone = ["report", alone.to_str().unwrap(), "--output", of_results.to_str().unwrap()];
    let with = |more: &[u8]| {
        std::fs::write(&path, [&lines[..], more].concat()).unwrap();
        let done = polyrank_train(&of_alone);
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success() && told.contains("\n8 runs, "), "{told}");
        told
    };
    let told = with(b"{\"name\": 1, \"validation\": 0.5}\n");
    assert!(!told.contains("cannot be read"), "{told}");
    let wrong_type = b"{\"name\": 1, \"validation\": {}, \"command\": []}";
    let told = with(&[&b"not JSON"[..], wrong_type, b"{\"name\": \"\xff\"}", b"{\"name\":"].join(&b'\n'));
    for line in 9..=12 {
        let words = format!("note: cannot be read and left out: results.jsonl: line {line}: ");
        assert!(told.contains(&words), "expected {words:?} in {told}");
    }
    assert_eq!(read(&of_results.join("runs.csv")), read(&of_folders.join("runs.csv")));
}

/// The report on the runs of the sweep, to which a schedule and the log of a run's steps are added.
fn reported(room: &TempDir, runs: &Path) {
    let schedule = runs.join("curves/first");
    std::fs::create_dir_all(&schedule).unwrap();
    let stage = |stage: usize, parameters: usize| {
        json!({"stage": stage, "xi": 1e-4, "epochs": 1, "parameters": parameters, "paper_parameters": parameters, "train": {}, "validation": {"accuracy": 0.75},
               "percent": {"parameters": 100.0, "train": 100.0, "validation": 100.0}})
    };
    std::fs::write(schedule.join("schedule.jsonl"), format!("{}\n{}\n", stage(0, 1000), stage(1, 500))).unwrap();
    // A schedule and a run that cannot be read are left out.
    let torn = runs.join("curves/torn");
    std::fs::create_dir(&torn).unwrap();
    std::fs::write(torn.join("schedule.jsonl"), "{\"stage\": \n{}\n").unwrap();
    let steps = |step| json!({"step": step, "epoch": 1, "loss": 0.5, "rate": 1e-3, "xi": 1e-4, "mean_rank": 4.0});
    std::fs::write(runs.join("first/sora-r4-s0/run/steps.jsonl"), format!("{}\n{}\n", steps(1), steps(10))).unwrap();
    let broken = runs.join("second/broken");
    let copied = Command::new("cp").arg("-r").arg(runs.join("second/lora-r4-s0")).arg(&broken).status();
    assert!(copied.unwrap().success());
    std::fs::write(broken.join("adapter_model.safetensors"), "short").unwrap();
    let unfinished = runs.join("second/sora-r4-s1");
    std::fs::rename(unfinished.join("adapter_model.safetensors"), unfinished.join("moved")).unwrap();
    // A run may lie elsewhere, behind a link. Links up and to other runs of the tree change nothing.
    #[cfg(unix)]
    {
        let link = |to: &Path, from: &str| std::os::unix::fs::symlink(to, runs.join(from)).unwrap();
        let moved = room.path().join("moved");
        std::fs::rename(runs.join("first/sora-r4-s0"), &moved).unwrap();
        link(&moved, "first/sora-r4-s0");
        link(runs, "first/up");
        link(&runs.join("first"), "again");
    }
    // This run was trained again since its line was written.
    let text = String::from_utf8(read(&runs.join("results.jsonl"))).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = lines.iter_mut().find(|line| line["name"] == "second/lora-r4-s1").unwrap();
    line["parameters"] = json!(line["parameters"].as_u64().unwrap() + 1);
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(runs.join("results.jsonl"), lines).unwrap();
    let output = room.path().join("report");
    let command = ["report", runs.to_str().unwrap(), "--output", output.to_str().unwrap()];
    std::fs::create_dir(&output).unwrap();
    std::fs::write(output.join("report.md"), "# My own report\n").unwrap();
    refused(&command, 1, "report.md exists, and is not of a report");
    assert_eq!(std::fs::read_dir(&output).unwrap().count(), 1);
    std::fs::remove_file(output.join("report.md")).unwrap();
    fine(&command);
    // What a report has no more is gone after the next one. Other files stay.
    let text = String::from_utf8(read(&output.join("report.md"))).unwrap();
    let more = "\n## Table 3: adapted modules\n\n![Ranks](ranks-gone.svg)\n\n![Mine](mine.svg)\n";
    std::fs::write(output.join("report.md"), text + more).unwrap();
    for name in ["table3.csv", "ranks-gone.svg", "training-first.png", "mine.svg", "table2.csv"] {
        std::fs::write(output.join(name), "old").unwrap();
    }
    fine(&command);
    assert!(["table3.csv", "ranks-gone.svg"].iter().all(|name| !output.join(name).exists()));
    for name in ["mine.svg", "table2.csv"] {
        assert_eq!(read(&output.join(name)), b"old");
        std::fs::remove_file(output.join(name)).unwrap();
    }
    assert!(read(&output.join("training-first.png")).starts_with(b"\x89PNG"));
    let text = String::from_utf8(read(&output.join("report.md"))).unwrap();
    for words in [
        "from 7 runs and 1 schedules",
        "- not finished and left out: second/sora-r4-s1\n",
        "- cannot be read and left out: curves/torn: ",
        "- cannot be read and left out: second/broken: ",
        "- without the metrics on test in results.jsonl, which are of an earlier training: second/lora-r4-s1\n",
        "## Table 1: methods by tasks (validation)",
        "## Table 1: methods by tasks (test)",
        "| method | parameters | paper's count | first (accuracy) | second (accuracy) | average |",
        "| LoRA, r = 4 |",
        "| SoRA, r = 4 |",
        "## Table 4: seconds an epoch",
        "| first | 1 | 1.00e-4 | 500 | 500 | 100.0 | 100.0 | 100.0 | accuracy=0.7500 |",
        "![Figure 2: compression](compression.svg)",
        "![Training on first](training-first.svg)",
    ] {
        assert!(text.contains(words), "expected {words:?} in {text}");
    }
    let csv = String::from_utf8(read(&output.join("runs.csv"))).unwrap();
    assert_eq!(csv.lines().count(), 8, "{csv}");
    let figures: Vec<String> = names(&output).into_iter().filter(|name| name.ends_with(".svg")).collect();
    for name in &figures {
        let svg = String::from_utf8(read(&output.join(name))).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        assert!(
            document.descendants().any(|node| node.has_tag_name("polyline") || node.has_tag_name("rect")),
            "{name}"
        );
        assert!(read(&output.join(name.replace(".svg", ".png"))).starts_with(b"\x89PNG"), "{name}");
    }
    assert!(figures.len() >= 3, "{figures:?}");
}

#[test]
fn list_has_independent_commands_and_needs_no_data() {
    let room = room();
    std::fs::remove_dir_all(room.path().join("data")).unwrap();
    let output = command(&room, "runs").arg("--list").output().unwrap();
    assert!(output.status.success());
    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(
        (&lines[3]["name"], &lines[3]["output"]),
        (&json!("second/sora-r4-s0"), &json!("runs/second/sora-r4-s0"))
    );
    let base = base_dir();
    let command = [
        "polyrank-train",
        "train",
        "--data",
        "data/second",
        "--output",
        "runs/second/sora-r4-s0",
        "--method",
        "sora",
        "--rank",
        "4",
        "--seed",
        "0",
        "--batch-size",
        "8",
        "--epochs",
        "3",
        "--max-train-samples",
        "24",
        "--model-id",
        base.to_str().unwrap(),
        "--resume",
    ];
    assert_eq!(lines[3]["command"], json!(command));
    // To run them here, the data must be there.
    let message = told(self::command(&room, "runs").output().unwrap(), 1);
    assert!(message.contains("sweep.toml: task first: data/first does not exist"), "{message}");
}

/// Runs whose folders are not those of their adapters (`--run-dir`) are in the report, too.
#[test]
fn report_reads_runs_in_folders_of_their_own() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let [runs, adapter, output] = ["runs", "adapter", "report"].map(|name| room.path().join(name));
    let (run, short) = (runs.join("task/lora"), ["--method", "lora", "--epochs", "1"]);
    let more = [&short[..], &["--run-dir", run.to_str().unwrap()]].concat();
    fine(&train(data.path().to_str().unwrap(), adapter.to_str().unwrap(), &more));
    for found in [&runs, &run] {
        fine(&["report", found.to_str().unwrap(), "--output", output.to_str().unwrap()]);
        let csv = String::from_utf8(read(&output.join("runs.csv"))).unwrap();
        let name = if *found == runs { "task/lora," } else { "lora," };
        assert!(csv.lines().count() == 2 && csv.lines().any(|line| line.starts_with(name)), "{csv}");
    }
    // Another run replaces the adapter, and does not become the result of the first.
    let (second, more) =
        (room.path().join("second"), ["--method", "lora", "--epochs", "1", "--target-modules", "query", "--overwrite"]);
    let more = [&more[..], &["--run-dir", second.to_str().unwrap()]].concat();
    fine(&train(data.path().to_str().unwrap(), adapter.to_str().unwrap(), &more));
    let of =
        |folder: &Path| ["report", folder.to_str().unwrap(), "--output", output.to_str().unwrap()].map(str::to_owned);
    let args = of(&second);
    fine(&args.each_ref().map(String::as_str));
    let args = of(&run);
    refused(&args.each_ref().map(String::as_str), 1, "another run has replaced it");
    // The run tells where its adapter was.
    std::fs::remove_dir_all(&adapter).unwrap();
    let left_out = ["report", run.to_str().unwrap(), "--output", output.to_str().unwrap()];
    refused(&left_out, 1, "adapter: No such file");
    let left_out = ["report", runs.to_str().unwrap(), "--output", output.to_str().unwrap()];
    refused(&left_out, 1, "found none; cannot be read and left out: task/lora: ");
    // One that was stopped has none yet.
    std::fs::write(run.join("log.jsonl"), "").unwrap();
    refused(&left_out, 1, "found none; not finished and left out: task/lora");
}

/// Only the file says what a sweep's runs are.
#[test]
fn variables_do_not_change_the_runs() {
    let room = room();
    let list = |variables: &[(&str, &str)]| {
        let output = command(&room, "runs").arg("--list").envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let variables = [("POLYRANK_TRAIN_SEED", "7"), ("POLYRANK_TRAIN_LR", "0.5"), ("POLYRANK_TRAIN_METHOD", "lora")];
    assert_eq!(list(&variables), list(&[]));
    file(&room, "epochs = 1\nseeds = [0]\ndevice = \"cpu\"\nlog_every = 1");
    let path = room.path().join("sweep.toml");
    let text = String::from_utf8(read(&path)).unwrap().replacen("epochs = 3\n", "", 1);
    std::fs::write(&path, text).unwrap();
    told(command(&room, "runs").envs(variables).output().unwrap(), 0);
    let config = String::from_utf8(read(&room.path().join("runs/first/lora-r4-s0/run/config.toml"))).unwrap();
    assert!(config.contains("\nlog_every = 1\n") && config.contains("\nseed = 0\n"), "{config}");
    assert!(!config.contains("lr = 0.5"), "{config}");
}

/// A task whose test split cannot be read fails its own runs, and no others.
#[test]
fn unreadable_test_split_fails_the_runs_of_its_task() {
    let room = room();
    file(&room, "seeds = [0]");
    let path = room.path().join("data/second/test.tsv");
    std::fs::write(&path, "label\tsentence\nother\tthe plot was good\n").unwrap();
    let message = told(command(&room, "runs").output().unwrap(), 1);
    assert!(message.contains("2 of 4 runs are finished"), "{message}");
    assert!(
        message.contains("failed: second/lora-r4-s0: data/second/test.tsv:2: unknown label \"other\""),
        "{message}"
    );
    let found: Vec<Value> = results(&room.path().join("runs"));
    assert_eq!(found.iter().map(|line| line["task"].as_str().unwrap()).collect::<Vec<_>>(), ["first", "first"]);
}

#[test]
fn wrong_calls_are_refused() {
    let room = room();
    let path = room.path().join("sweep.toml");
    let sweep = path.to_str().unwrap();
    refused(&["sweep", "/nowhere/sweep.toml"], 1, "/nowhere/sweep.toml: ");
    refused(&["sweep", sweep], 1, "expected --output RUNS, or output in the file");
    refused(
        &["sweep", sweep, "--output", "r", "--cores", "1", "--at-once", "2"],
        1,
        "--at-once: expected at most --cores, which is 1, found 2",
    );
    refused(&["sweep", sweep, "--cores", "0"], 2, "--cores");
    let (empty, output) = (room.path().join("data"), room.path().join("report"));
    let (empty, output) = (empty.to_str().unwrap(), output.to_str().unwrap());
    refused(&["report", empty, "--output", output], 1, "expected finished runs, found none");
    refused(&["report", "/nowhere/runs", "--output", output], 1, "/nowhere/runs: ");
    let other = command(&room, "data").arg("--data-root").arg("elsewhere").output().unwrap();
    assert!(told(other, 1).contains("elsewhere/first does not exist"));
    // What `train` refuses on a device fails before any run. A list may be for machines with another device.
    file(&room, "seeds = [0]\ndtype = \"bf16\"");
    let text = String::from_utf8(read(&path)).unwrap();
    std::fs::write(&path, text.replace("[\"lora\", \"sora\"]", "[\"full\"]")).unwrap();
    let message = told(command(&room, "runs").output().unwrap(), 1);
    let words = "sweep.toml: first/full-s0: --dtype: expected f32 with the method full on a CPU";
    assert!(message.contains(words), "{message}");
    assert!(command(&room, "runs").arg("--list").output().unwrap().status.success());
}
