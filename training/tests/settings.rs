//! Settings of `polyrank-train train` in layers: flags, environment variables, the file of `--config`, defaults; and as a run stores them.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::run::{data, fine, read, refused, train};
use super::{base_dir, engine};

/// The settings of a run as version 0.1.0 stored them before they had environment variables.
const STORED: &str = r#"rank = 6
alpha = 16.0
target_modules = []
gate = "adaptive"
target_ratio = 0.65
sparse_lambda = 0.0
depth_bias = 0.0
epochs = 1
batch_size = 8
lr = 0.0015
warmup = 0.06
weight_decay = 0.01
clip = 1.0
dropout_after = 0
dtype = "f32"
max_length = 64
seed = 3
select = "best"
"#;

/// `config.toml` of a run with these settings.
fn today(settings: &str) -> String {
    format!(
        "method = \"sora\"\nmodel_id = {:?}\n{settings}accumulate = 1\nvalidation_split = 0.1\nkeep_checkpoints = false\n\
         device = \"cpu\"\nlog_every = 10\n",
        base_dir()
    )
}

fn stored(output: &Path) -> String {
    String::from_utf8(read(&output.join("run/config.toml"))).unwrap()
}

/// `train` with these flags, environment variables and file. It ends before the data is read, which does not exist.
fn told(flags: &[&str], variables: &[(&str, &str)], file: Option<&str>) -> String {
    let room = TempDir::new().unwrap();
    let path = room.path().join("settings.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
    command.args(["train", "--data", "/nowhere/at/all", "--output", "/nowhere/else"]).args(flags);
    command.envs(variables.iter().copied());
    if let Some(content) = file {
        std::fs::write(&path, content).unwrap();
        command.arg("--config").arg(&path);
    }
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// An invalid value shows which layer won.
#[test]
fn flags_override_variables_which_override_the_file() {
    let variable = [("POLYRANK_TRAIN_WARMUP", "4")];
    let file = Some("warmup = 5");
    let found = |told: String| told.trim().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(found(told(&["--warmup", "3"], &variable, file)), "3");
    assert_eq!(found(told(&[], &variable, file)), "4");
    assert_eq!(found(told(&[], &[], file)), "5");
    assert!(told(&[], &[], None).contains("no such folder"));
    assert!(
        told(&["--warmup", "0"], &variable, file).contains("no such folder"),
        "only the value that counts is checked"
    );
    // A setting with another value as a default, given by a flag.
    assert!(told(&["--warmup", "0.06"], &variable, file).contains("no such folder"));
    let rank = told(&[], &[("POLYRANK_TRAIN_RANK", "six")], Some("rank = 8"));
    assert!(rank.contains("'six'") && rank.contains("--rank"), "{rank}");
    // An empty variable is as if unset.
    let unset = told(&[], &[("POLYRANK_TRAIN_RANK", ""), ("POLYRANK_TRAIN_WARMUP", "")], file);
    assert_eq!(found(unset), "5");
}

/// A file or a variable may serve runs of several methods.
#[test]
fn settings_that_a_method_lacks_are_told() {
    let file = Some("method = \"full\"\nrank = 4\nlr = 1e-3");
    let found = told(&[], &[("POLYRANK_TRAIN_BOTTLENECK", "8")], file);
    assert!(found.starts_with("the method full has no ") && found.contains("no such folder"), "{found}");
    let line = found.lines().next().unwrap();
    assert!(line.contains(" rank") && line.contains("bottleneck") && !line.contains("lr"), "{line}");
    assert!(!told(&["--method", "lora"], &[], file).contains("ignored"));
}

#[test]
fn run_has_the_settings_of_all_layers() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let (config, output) = (room.path().join("settings.toml"), room.path().join("adapter"));
    // `--rank`, `--seed` and `--batch-size` are flags. A whole number may stand for one with a fraction.
    let file = "rank = 2\nalpha = 12\nepochs = 4\nlr = 1e-3\ntarget_modules = [\"query\", \"key\"]\ntask = \"t\"\n";
    std::fs::write(&config, file).unwrap();
    let flags = ["--config", config.to_str().unwrap(), "--epochs", "1"];
    fine(&train(data.path().to_str().unwrap(), output.to_str().unwrap(), &flags));
    let expected = STORED
        .replace("alpha = 16.0", "alpha = 12.0")
        .replace("lr = 0.0015", "lr = 0.001")
        .replace("[]", "[\"query\", \"key\"]");
    assert_eq!(stored(&output), today(&expected).replace("validation_split", "task = \"t\"\nvalidation_split"));
    let facts: serde_json::Value = serde_json::from_slice(&read(&output.join("run/task.json"))).unwrap();
    assert_eq!(facts["task"], "t");
}

#[test]
fn file_with_an_unknown_key_or_a_wrong_type_is_refused_by_name() {
    let unknown = "unknown setting ranks (did you mean rank?); expected one of method, model_id, rank, ";
    for (file, words) in [
        ("epochs = 3\nranks = 8", unknown),
        ("learning_rate = 1", "unknown setting learning_rate; expected one of method"),
        ("log-every = 1", "unknown setting log-every (did you mean log_every?)"),
        ("device = \"gpu\"", "device: "),
        ("log_every = -1", "log_every: invalid value: integer `-1`, expected usize"),
        // Paths are flags only.
        ("data = \"tasks\"", "unknown setting data (did you mean dataset?); expected one of method"),
        ("[train]\nrank = 8", "unknown setting train; expected one of method"),
        ("rank = \"eight\"", "rank: invalid type: string \"eight\", expected usize"),
        ("rank = \"8\"", "rank: invalid type: string \"8\", expected usize"),
        ("rank = 1.5", "rank: invalid type: floating point `1.5`, expected usize"),
        ("epochs = -1", "epochs: invalid value: integer `-1`, expected usize"),
        ("lr = true", "lr: invalid type: boolean `true`, expected f64"),
        ("model_id = 1", "model_id: invalid type: integer `1`, expected a string"),
        ("target_modules = \"query\"", "target_modules: invalid type: string \"query\", expected a sequence"),
        ("target_modules = [\"query\", 1]", "target_modules[1]: invalid type: integer `1`, expected a string"),
        ("method = \"dora\"", "method: unknown variant `dora`, expected one of `sora`, `lora`, "),
        ("dtype = \"f16\"", "dtype: unknown variant `f16`, expected one of `f32`, `bf16`, `int8`"),
        ("validation_split = \"a\"", "validation_split: invalid type: string \"a\", expected f64"),
        ("rank = 8\nrank = 9", "line 2: duplicate key"),
        ("rank 8", "line 1: "),
    ] {
        let told = told(&[], &[], Some(file));
        assert!(told.contains(&format!("settings.toml: {words}")), "expected {words:?} in {told}");
    }
    let missing = ["--config", "/nowhere/settings.toml"];
    assert!(told(&missing, &[], None).contains("/nowhere/settings.toml: "));
}

/// Of settings that exclude each other, a flag replaces those of variables.
#[test]
fn flag_replaces_the_variables_that_it_excludes() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
    command.args(train(from, to, &["--epochs", "1", "--target-ratio", "0.5"])).env("POLYRANK_HOME", super::home());
    command.env("POLYRANK_TRAIN_XI", "1e-3").env("POLYRANK_TRAIN_DATASET", "no/such");
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let config: toml::Table = String::from_utf8(read(&output.join("run/config.toml"))).unwrap().parse().unwrap();
    assert_eq!((config["target_ratio"].as_float(), config.get("xi"), config.get("dataset")), (Some(0.5), None, None));
    // The same for a schedule, which sets the thresholds itself, and for switches, which variables give in any spelling.
    let curve = room.path().join("curve");
    let more = ["--epochs", "1", "--stage-epochs", "1", "--xi0", "1e-3", "--xi-max", "1e-3", "--xi-step", "1"];
    let mut args = train(from, curve.to_str().unwrap(), &more);
    args[0] = "schedule";
    for (variable, value) in [
        ("XI", "0.1"),
        ("TARGET_RATIO", "0.3"),
        ("METHOD", "lora"),
        ("GATE", "adaptive"),
        ("DEPTH_BIAS", "1"),
        ("PATIENCE", "2"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
        command.args(&args).arg("--overwrite").env("POLYRANK_HOME", super::home());
        command.env(format!("POLYRANK_TRAIN_{variable}"), value).env("POLYRANK_TRAIN_KEEP_CHECKPOINTS", "yes");
        let done = command.output().unwrap();
        assert!(done.status.success(), "{variable}: {}", String::from_utf8_lossy(&done.stderr));
        let config = String::from_utf8(read(&curve.join("stage-0/run/config.toml"))).unwrap();
        let config: toml::Table = config.parse().unwrap();
        assert_eq!((config["xi"].as_float(), config["gate"].as_str()), (Some(1e-3), Some("authors")), "{variable}");
        assert_eq!(config["keep_checkpoints"].as_bool(), Some(true));
    }
    let of_train = room.path().join("of-train.toml");
    std::fs::write(&of_train, stored(&output).replace("depth_bias = 0.0", "depth_bias = 1.0")).unwrap();
    fine(&[&args[..], &["--overwrite", "--config", of_train.to_str().unwrap()]].concat());
    refused(&[&args[..], &["--overwrite", "--select", "best"]].concat(), 1, "expected no --select");
    // What a file says about adaptive gates goes with its ratio.
    let file = output.join("run/config.toml");
    let again = room.path().join("again");
    let more = ["--config", file.to_str().unwrap(), "--xi", "1e-3"];
    fine(&train(from, again.to_str().unwrap(), &more));
    let config: toml::Table = String::from_utf8(read(&again.join("run/config.toml"))).unwrap().parse().unwrap();
    let gate = (config["gate"].as_str(), config["sparse_lambda"].as_float());
    assert_eq!((gate, config["xi"].as_float()), ((Some("authors"), Some(10.0)), Some(1e-3)));
    // And what it says about the penalty goes with its constant threshold. A schedule has no penalty either.
    let (of_xi, steered) = (again.join("run/config.toml"), room.path().join("steered"));
    let of_xi = ["--config", of_xi.to_str().unwrap()];
    fine(&train(from, steered.to_str().unwrap(), &[&of_xi[..], &["--target-ratio", "0.5"]].concat()));
    fine(&[&args[..], &["--overwrite"], &of_xi].concat());
    for folder in [steered, curve.join("stage-0")] {
        assert!(stored(&folder).contains("\nsparse_lambda = 0.0\n"), "{}", stored(&folder));
    }
}

/// A threshold, gates or a number of epochs replace what belongs to those of weaker layers.
#[test]
fn what_belongs_to_a_replaced_setting_does_not_count() {
    let adaptive = Some("gate = \"adaptive\"\ntarget_ratio = 0.5\ndepth_bias = 1.0");
    let deep = ("POLYRANK_TRAIN_DEPTH_BIAS", "1");
    for (flags, variables, file) in [
        (&["--xi", "1e-3"][..], &[][..], adaptive),
        (&["--xi", "1e-3"], &[], Some("depth_bias = 1")),
        (&["--gate", "paper"], &[], adaptive),
        (&[], &[("POLYRANK_TRAIN_XI", "1e-3")], adaptive),
        (&["--xi", "1e-3"], &[deep, ("POLYRANK_TRAIN_GATE", "adaptive")], None),
        (&["--gate", "paper"], &[deep], None),
        (&["--epochs", "3"], &[], Some("epochs = 10\nextended_from = [5]")),
    ] {
        let found = told(flags, variables, file);
        assert!(found.contains("no such folder"), "{found}");
    }
    // Recorded defaults follow from the recorded rank. A value that is none counts.
    let adalora = |flag: &'static str| ["--method", "adalora", "--rank", flag];
    for (flags, file, words) in [
        (&["--method", "dylora", "--rank", "4"][..], "rank = 8\nexport_rank = 8", "no such folder"),
        (
            &["--method", "dylora", "--rank", "4"],
            "rank = 8\nexport_rank = 6",
            "--export-rank: expected at most the rank 4",
        ),
        (&adalora("16"), "rank = 8\ninit_rank = 12", "no such folder"),
        (&adalora("16"), "init_rank = 12", "--init-rank: expected at least the rank 16"),
        (&adalora("16"), "rank = 9223372036854775807\ninit_rank = 12", "--init-rank: expected at least the rank 16"),
        (&adalora("16"), "rank = 8\ninit_rank = 13", "--init-rank: expected at least the rank 16"),
    ] {
        let found = told(flags, &[], Some(file));
        assert!(found.contains(words), "expected {words:?} in {found:?}");
    }
    // The weight of the penalty counts, unless it is the default of gates that a flag replaces.
    let weight = "gate = \"authors\"\nxi = 0.001\nsparse_lambda = -1.0";
    for gate in ["authors", "paper"] {
        let found = told(&["--gate", gate], &[], Some(weight));
        assert!(found.contains("--sparse-lambda: expected 0 or a positive number, found -1"), "{found}");
    }
    let same_layer = told(&["--xi", "1e-3", "--depth-bias", "1"], &[], None);
    assert!(same_layer.contains("--depth-bias: expected adaptive gates"), "{same_layer}");
}

/// A file or a variable may serve runs of several methods.
#[test]
fn settings_that_the_method_lacks_do_not_count() {
    for (method, file) in [
        ("lora", "rank = 16\ninit_rank = 12"),
        ("lora", "rank = 16\nexport_rank = 20"),
        ("dylora", "tinit = 0.6"),
        ("lora", "xi = 0.1\ntarget_ratio = 0.5"),
        ("bitfit", "xi = 0.1\ndepth_bias = 1"),
    ] {
        let found = told(&["--method", method], &[], Some(file));
        assert!(found.contains("no such folder"), "{method}: {found}");
    }
    let never = told(&["--method", "lora"], &[], Some("target_ratio = 1.5"));
    assert!(never.contains("--target-ratio: expected above 0 and at most 1"), "{never}");
    // A run without ranks goes on whatever rank a variable gave it.
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    let mut args = train(from, to, &["--method", "bitfit", "--epochs", "1"]);
    args.retain(|arg| !["--rank", "6"].contains(arg));
    let mut command = Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
    command.args(&args).env("POLYRANK_HOME", super::home());
    command.env("POLYRANK_TRAIN_RANK", "4").env("POLYRANK_TRAIN_TARGET_MODULES", "query");
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    args.push("--resume");
    fine(&args);
    // Earlier versions recorded it.
    let config = stored(&output);
    assert!(config.contains("\nrank = 8\n"), "{config}");
    std::fs::write(output.join("run/config.toml"), config.replace("\nrank = 8\n", "\nrank = 4\n")).unwrap();
    fine(&args);
}

/// The recorded settings of one method are no settings of another.
#[test]
fn settings_of_a_method_without_gates_have_none() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    fine(&train(data.path().to_str().unwrap(), output.to_str().unwrap(), &["--epochs", "1", "--method", "lora"]));
    let path = output.join("run/config.toml");
    let text = String::from_utf8(read(&path)).unwrap();
    assert!(!text.contains("gate") && !text.contains("sparse_lambda"), "{text}");
    // Runs of earlier versions, which recorded them, can be continued.
    std::fs::write(&path, format!("gate = \"adaptive\"\nsparse_lambda = 0.0\n{text}")).unwrap();
    let more = ["--epochs", "1", "--method", "lora", "--resume"];
    fine(&train(data.path().to_str().unwrap(), output.to_str().unwrap(), &more));
}

#[test]
fn flag_replaces_any_threshold_of_the_file() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let (config, output) = (room.path().join("settings.toml"), room.path().join("adapter"));
    std::fs::write(&config, "target_ratio = 0.5\ngate = \"authors\"").unwrap();
    let flags = ["--config", config.to_str().unwrap(), "--xi", "1e-3", "--epochs", "1"];
    fine(&train(data.path().to_str().unwrap(), output.to_str().unwrap(), &flags));
    let expected = STORED
        .replace("adaptive", "authors")
        .replace("target_ratio = 0.65", "xi = 0.001")
        .replace("sparse_lambda = 0.0", "sparse_lambda = 10.0");
    assert_eq!(stored(&output), today(&expected));
    let two = told(&[], &[], Some("xi = 0.1\nlambda = 5"));
    assert!(
        two.contains("expected one of --target-ratio, --target-params, --xi and --lambda, found --xi and --lambda"),
        "{two}"
    );
    let wrong = told(&[], &[("POLYRANK_TRAIN_GATE", "adaptive")], Some("xi = 0.1"));
    assert!(wrong.contains("--gate adaptive: expected --target-ratio"), "{wrong}");
}

#[test]
fn settings_of_gates_are_ignored_without_gates_unless_a_flag_gives_them() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let (config, output) = (room.path().join("settings.toml"), room.path().join("adapter"));
    std::fs::write(&config, "method = \"lora\"\nxi = 0.5\ngate_lr = 0.1\nsparse_lambda = 3").unwrap();
    let flags = ["--config", config.to_str().unwrap(), "--epochs", "1"];
    fine(&train(data.path().to_str().unwrap(), output.to_str().unwrap(), &flags));
    let found = stored(&output);
    let of_gates = ["xi", "gate", "gate_lr", "target_ratio", "sparse_lambda"];
    assert!(!of_gates.iter().any(|name| found.contains(&format!("\n{name} "))), "{found}");
    let by_flag = told(&["--gate-lr", "0.1"], &[], Some("method = \"lora\""));
    assert!(by_flag.contains("--gate-lr: expected with the method sora, found lora"), "{by_flag}");
    let by_variable = told(&["--method", "lora"], &[("POLYRANK_TRAIN_GATE_LR", "0.1")], None);
    assert!(by_variable.contains("no such folder"), "{by_variable}");
}

/// Only the settings of all layers together are checked against each other.
#[test]
fn settings_of_several_layers_are_checked_together() {
    for (flags, file) in [
        (&["--method", "dylora", "--export-rank", "16"][..], "rank = 16"),
        (&["--method", "adalora", "--tinit", "0.6"], "tfinal = 0.2"),
    ] {
        let found = told(flags, &[], Some(file));
        assert!(found.contains("no such folder"), "{found}");
    }
    for (flags, file, words) in [
        (&["--method", "dylora", "--export-rank", "16"][..], "rank = 8", "--export-rank: expected at most the rank 8"),
        (&["--patience", "1"], "select = \"last\"", "--patience: expected --select best"),
        (&["--dataset-config", "rte"], "", "--dataset-config: expected --dataset beside it, found rte"),
        (&[], "dataset_revision = \"abc\"", "--dataset-revision: expected --dataset beside it, found abc"),
    ] {
        let found = told(flags, &[], Some(file));
        assert!(found.contains(words), "expected {words:?} in {found:?}");
    }
}

/// A run that an older version began continues: its settings are read, and are those of the same command today.
#[test]
fn run_of_an_older_version_continues() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    fine(&train(from, to, &["--epochs", "1"]));
    assert_eq!(stored(&output), today(STORED));
    fine(&train(from, to, &["--epochs", "1", "--resume"]));
    // Before late dropout, precisions and depth, these settings were not stored, and before accumulation none of the last.
    let (older, _) = today(STORED).split_once("accumulate").map(|(before, after)| (before.to_owned(), after)).unwrap();
    let older = older.replace("dropout_after = 0\n", "").replace("dtype = \"f32\"\n", "");
    let older = older.replace("depth_bias = 0.0\n", "").replace("select = \"best\"\n", "");
    std::fs::write(output.join("run/config.toml"), older).unwrap();
    fine(&train(from, to, &["--epochs", "1", "--resume"]));
    refused(
        &train(from, to, &["--epochs", "1", "--resume", "--dropout-after", "1"]),
        1,
        "started with dropout_after = 0",
    );
}

#[test]
fn numbers_that_are_too_large_are_refused() {
    for (flag, most) in [
        ("--rank", "4294967295"),
        ("--epochs", "4294967295"),
        ("--batch-size", "4294967295"),
        ("--max-length", "4294967295"),
        ("--dropout-after", "4294967295"),
        ("--accumulate", "4294967295"),
        ("--patience", "4294967295"),
        ("--log-every", "4294967295"),
        ("--checkpoint-every", "4294967295"),
        ("--seed", "9223372036854775807"),
    ] {
        let told = told(&[flag, "18446744073709551615"], &[], Some("alpha = 2"));
        let expected = format!("{flag}: expected at most {most}, found 18446744073709551615");
        assert!(told.contains(&expected), "{told}");
    }
    // Also where a flag replaces variables.
    for variables in [&[][..], &[("POLYRANK_TRAIN_XI", "1e-3")]] {
        let told = told(&["--target-ratio", "0.5", "--seed", "18446744073709551615"], variables, None);
        assert!(told.contains("--seed: expected at most 9223372036854775807"), "{told}");
    }
}

/// The run was made longer, its rows were held out, and its columns have other names than the usual ones.
#[test]
fn configuration_of_a_finished_run_repeats_it() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let rows = String::from_utf8(read(&data.path().join("train.tsv"))).unwrap();
    std::fs::write(data.path().join("train.tsv"), rows.replace("label\tsentence", "stars\treview")).unwrap();
    std::fs::remove_file(data.path().join("validation.tsv")).unwrap();
    let (from, first, again) = (data.path().to_str().unwrap(), room.path().join("first"), room.path().join("again"));
    let run = |more: &[&str]| {
        let common = ["--label-column", "stars", "--text-column", "review", "--validation-split", "0.25"];
        let common = [&common[..], &["--accumulate", "2", "--log-every", "1"], more].concat();
        fine(&train(from, first.to_str().unwrap(), &common));
    };
    run(&["--epochs", "1"]);
    let file = first.join("run/config.toml");
    for more in [&["--epochs", "2"][..], &["--epochs", "2"], &["--config", file.to_str().unwrap(), "--epochs", "3"]] {
        run(&[more, &["--resume"]].concat());
    }
    let config = stored(&first);
    for line in
        ["epochs = 3", "extended_from = [1, 2]", "dropout_after = 0", "accumulate = 2", "label_column = \"stars\""]
    {
        assert!(config.contains(&format!("\n{line}\n")), "{line} is not in {config}");
    }
    fine(&["train", "--config", file.to_str().unwrap(), "--data", from, "--output", again.to_str().unwrap()]);
    for name in ["adapter_model.safetensors", "adapter_config.json", "config.json", "run/config.toml", "run/task.json"]
    {
        assert_eq!(read(&again.join(name)), read(&first.join(name)), "{name}");
    }
    assert_eq!(read(&again.join("run/steps.jsonl")), read(&first.join("run/steps.jsonl")));
    // The stages of a schedule with its settings, and a run with another number of epochs, were not made longer.
    let (curve, other) = (room.path().join("curve"), room.path().join("other"));
    let given = ["--config", file.to_str().unwrap(), "--data", from, "--output"];
    let stages = ["--xi0", "1e-3", "--xi-max", "2e-3", "--xi-step", "1e-3", "--stage-epochs", "1"];
    fine(&[&["schedule"][..], &given, &[curve.to_str().unwrap()], &stages].concat());
    fine(&[&["train"][..], &given, &[other.to_str().unwrap(), "--epochs", "1"]].concat());
    for folder in [curve.join("stage-0"), curve.join("stage-1"), other] {
        assert!(!stored(&folder).contains("extended_from"), "{}", stored(&folder));
    }
    let shorter = ["--epochs", "2", "--extended-from", "2"];
    let words = "--extended-from: expected numbers that rise from 1 or more up to --epochs, found 2, 2";
    assert!(told(&shorter, &[], None).contains(words), "{}", told(&shorter, &[], None));
}

/// Otherwise only the head would learn, without a word.
#[test]
fn bitfit_needs_a_base_with_biases() {
    let (data, base) = (data(), base_dir().join("../encoders/modernbert"));
    let mut args = train(data.path().to_str().unwrap(), "/nowhere/at/all", &["--method", "bitfit"]);
    args.retain(|arg| !["--rank", "6"].contains(arg));
    let model = args.iter().position(|arg| *arg == "--model-id").unwrap() + 1;
    args[model] = base.to_str().unwrap();
    refused(&args, 1, "--method bitfit: expected a base with biases, found one without");
}

/// The number of parameters to keep is stored instead of the ratio. What is impossible on the base is refused.
#[test]
fn number_of_parameters_to_keep_is_stored_and_checked() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let (from, output) = (data.path().to_str().unwrap(), room.path().join("adapter"));
    let base = engine();
    let costs: Vec<usize> =
        base.layout().modules.iter().map(|module| module.in_features + module.out_features).collect();
    let (least, all) = (*costs.iter().min().unwrap(), 6 * base.layout().layers * costs.iter().sum::<usize>());
    for kept in [least - 1, all + 1] {
        let kept = kept.to_string();
        let words =
            format!("--target-params: expected from {least}, one rank of the smallest linear, to {all}, found {kept}");
        refused(&train(from, "/nowhere/at/all", &["--target-params", &kept]), 1, &words);
    }
    let (share, ratio) = (least as f64 / all as f64, 0.9 * least as f64 / all as f64);
    let words =
        format!("--target-ratio: expected {share:.5} or more, which is one rank of the smallest linear, found {ratio}");
    refused(&train(from, "/nowhere/at/all", &["--target-ratio", &ratio.to_string()]), 1, &words);
    let kept = (all / 3).to_string();
    fine(&train(from, output.to_str().unwrap(), &["--epochs", "2", "--target-params", &kept]));
    assert!(
        stored(&output).contains(&format!("target_params = {kept}\n")) && !stored(&output).contains("target_ratio")
    );
    let found = base.load_adapter(&output).unwrap().delta_parameters();
    assert!(found <= all / 3 && found + costs.iter().max().unwrap() > all / 3, "{found} of {kept}");
    let both = told(&[], &[], Some("target_ratio = 0.5\ntarget_params = 5000"));
    assert!(both.contains("found --target-ratio and --target-params"), "{both}");
    for (flags, words) in [
        (&["--depth-bias=-1"][..], "--depth-bias: expected 0 or a positive number, found -1"),
        (&["--depth-bias", "1", "--gate", "paper"], "--depth-bias: expected adaptive gates"),
        (&["--gate", "adaptive", "--xi", "1"], "--gate adaptive: expected --target-ratio or --target-params"),
        (&["--method", "lora", "--target-params", "5000"], "--target-params: expected with the method sora"),
    ] {
        let told = told(flags, &[], None);
        assert!(told.contains(words), "expected {words:?} in {told}");
    }
}
