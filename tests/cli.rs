//! The program `polyrank` as a user runs it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bert").join(name)
}

/// Runs the program with `input` on its standard input, and with its own cache.
fn run_with(args: &[&str], input: &[u8]) -> Output {
    let home = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_polyrank"));
    command.args(args).env("POLYRANK_HOME", home.path()).env_remove("RUST_LOG");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Writing fails if the program refuses its arguments, because it does not read its input then.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn run(args: &[&str]) -> Output {
    run_with(args, b"")
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::str::from_utf8(&output.stdout).unwrap()
}

/// The program's standard error, which must be one line.
fn one_line(output: &Output) -> &str {
    let text = std::str::from_utf8(&output.stderr).unwrap().strip_suffix('\n').unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(output.stdout.is_empty());
    text
}

fn classify(args: &[&str], input: &[u8]) -> Output {
    let (base, adapter) = (golden(""), golden("ragged"));
    let fixed = ["classify", "--model-id", base.to_str().unwrap(), "--adapter", adapter.to_str().unwrap()];
    run_with(&[&fixed, args].concat(), input)
}

/// The texts and second texts of the JSON lines that were printed.
fn texts(output: &Output) -> Vec<(String, Option<String>)> {
    let lines = stdout(output).lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    lines.map(|line| (text(&line["text"]).unwrap(), text(&line["text_pair"]))).collect()
}

#[test]
fn commands_of_training_point_to_polyrank_train() {
    for name in ["train", "prune", "schedule", "extract", "evaluate", "sweep", "report"] {
        let output = run(&[name, "--model-id", "default"]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        let line = one_line(&output);
        assert!(line.starts_with("error: ") && line.contains(&format!("polyrank-train {name}")), "{line}");
    }
    let output = run(&["clasify"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("classify"));
}

#[cfg(not(feature = "cuda"))]
#[test]
fn build_without_cuda_says_how_to_build_with_it() {
    let output = classify(&["--text", "good", "--device", "cuda"], b"");
    assert_eq!(output.status.code(), Some(1));
    let line = one_line(&output);
    assert!(line.contains("feature `cuda`") && line.contains("cargo build --release --features cuda"), "{line}");
}

#[test]
fn standard_input_is_json_lines_unless_a_flag_names_another_format() {
    let single = |text: &str| (text.to_owned(), None);
    let pair = |text: &str, pair: &str| (text.to_owned(), Some(pair.to_owned()));
    let json = b"{\"text\": \"good, really\"}\n\n{\"sentence1\": \"a\", \"sentence2\": \"b\", \"id\": 3}\n";
    assert_eq!(texts(&classify(&["--input", "-"], json)), [single("good, really"), pair("a", "b")]);
    let formats = ["--input", "-", "--input-format"];
    let read = |format, input| texts(&classify(&[&formats[..], &[format]].concat(), input));
    assert_eq!(read("txt", b"good\nbad, \"bad\"\n"), [single("good"), single("bad, \"bad\"")]);
    assert_eq!(read("tsv", b"label\tsentence\n1\tgood\n"), [single("good")]);
    assert_eq!(read("csv", b"text,text_pair\n\"a, b\",c\n"), [pair("a, b", "c")]);
    assert_eq!(texts(&classify(&["--input", "-"], b"")), []);
}

#[test]
fn standard_input_and_flags_give_the_same_answers() {
    let by_flag = classify(&["--text", "good", "--text", "The plot was bad."], b"");
    let by_input = classify(&["--input", "-", "--input-format", "txt"], b"good\nThe plot was bad.\n");
    assert_eq!(stdout(&by_flag), stdout(&by_input));
}

#[test]
fn flags_name_the_columns_of_an_input() {
    let csv = b"id,question,answer\n1,good,really\n";
    let named = |flags: &[&str]| classify(&[&["--input", "-", "--input-format", "csv"], flags].concat(), csv);
    assert_eq!(texts(&named(&["--text-column", "question"])), [("good".into(), None)]);
    let pair = named(&["--text-column", "question", "--text-pair-column", "answer"]);
    assert_eq!(texts(&pair), [("good".into(), Some("really".into()))]);
    for (flags, column) in [(&["--text-column", "body"][..], "body"), (&[], "sentence")] {
        let output = named(flags);
        let line = one_line(&output);
        assert!(line.contains(column) && line.contains("id, question, answer"), "{line}");
    }
    let without = classify(&["--input", "-", "--input-format", "txt", "--text-column", "question"], b"good\n");
    assert!(one_line(&without).contains("column question is missing; found one text on each line"));
    assert_eq!(classify(&["--text", "good", "--text-column", "question"], b"").status.code(), Some(2));
}

#[test]
fn truncated_texts_are_told() {
    let long = "good ".repeat(200);
    let output = classify(&["--text", "good", "--text", &long], b"");
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines[0].get("truncated"), lines[1].get("truncated")), (None, Some(&true.into())));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "1 text is longer than 64 tokens, and truncated\n");
}

/// Texts that are there are answered while others are still awaited.
#[test]
fn texts_are_answered_as_they_come() {
    let (home, base, adapter) = (TempDir::new().unwrap(), golden(""), golden("ragged"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_polyrank"));
    command.args(["classify", "--model-id", base.to_str().unwrap(), "--adapter", adapter.to_str().unwrap()]);
    command.args(["--input", "-"]).env("POLYRANK_HOME", home.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for text in ["good", "bad"] {
        writeln!(input, "{{\"text\": \"{text}\"}}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["text"], text);
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

/// A malformed row costs no answer to the rows before it.
#[test]
fn rows_before_a_malformed_one_are_answered() {
    let output = classify(&["--input", "-"], b"{\"text\": \"good\"}\n{\"text\": \"bad\"}\n{\"txt\": \"c\"}\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard input:3: "));
}

/// Labels are not used, so nothing in their column matters.
#[test]
fn column_of_labels_is_not_read() {
    let folder = TempDir::new().unwrap();
    for (name, content) in
        [("twice.csv", &b"label,sentence,label\na,good,b\n"[..]), ("latin.csv", b"label,sentence\nna\xefve,good\n")]
    {
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        let output = classify(&["--input", file.to_str().unwrap()], b"");
        assert_eq!(texts(&output), [("good".to_owned(), None)], "{name}");
    }
}

/// The base has no embedding for the token `<ent>`.
#[test]
fn texts_before_a_text_without_tokens_of_the_base_are_answered() {
    let (base, adapter) = (TempDir::new().unwrap(), golden("ragged"));
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(golden(name), base.path().join(name)).unwrap();
    }
    let config = r#"{"additional_special_tokens": ["<ent>"]}"#;
    std::fs::write(base.path().join("tokenizer_config.json"), config).unwrap();
    let fixed = ["classify", "--model-id", base.path().to_str().unwrap(), "--adapter", adapter.to_str().unwrap()];
    let file = base.path().join("texts.txt");
    std::fs::write(&file, "good\na bad <ent> film\nbad\n").unwrap();
    let file = file.to_str().unwrap();
    let json = b"{\"text\": \"good\"}\n\n{\"text\": \"<ent>\"}\n{\"text\": \"bad\"}\n";
    for (args, input, place) in [
        (&["--input", "-"][..], &json[..], "standard input:3".to_owned()),
        (&["--input", file], b"", format!("{file}:2")),
        (&["--text", "good", "--text", "<ent>"], b"", "--text:2".to_owned()),
    ] {
        let output = run_with(&[&fixed, args].concat(), input);
        assert_eq!(output.status.code(), Some(1), "{place}");
        let lines: Vec<Value> =
            output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        assert_eq!(lines.iter().map(|line| &line["text"]).collect::<Vec<_>>(), ["good"], "{place}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(&format!("error: {place}: token \"<ent>\" of the text")), "{told}");
    }
}

#[test]
fn negative_number_is_a_value_and_no_flag() {
    let output = run(&["serve", "--adapters", "a", "--max-batch-tokens", "-1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("invalid value '-1' for '--max-batch-tokens"));
}

#[test]
fn error_on_standard_input_names_the_format_flag() {
    let output = classify(&["--input", "-"], b"good\n");
    assert_eq!(output.status.code(), Some(1));
    let line = one_line(&output);
    assert!(line.contains("standard input:1: ") && line.contains("--input-format"), "{line}");
    let output = classify(&["--input", "-", "--input-format", "parquet"], b"PAR1");
    assert!(one_line(&output).contains("Parquet cannot be read"));
    let output = classify(&["--text", "good", "--input-format", "txt"], b"");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn input_format_flag_overrides_the_extension() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("texts.log");
    std::fs::write(&file, "good\n").unwrap();
    let output = classify(&["--input", file.to_str().unwrap(), "--input-format", "txt"], b"");
    assert_eq!(texts(&output), [("good".to_owned(), None)]);
}

#[test]
fn help_has_sections_examples_and_variables() {
    let output = run(&["serve", "--help"]);
    let help = stdout(&output);
    for part in [
        "\nModel:\n",
        "\nAdapters:\n",
        "\nBatching:\n",
        "\nLimits:\n",
        "\nNetwork:\n",
        "\nSecurity:\n",
        "\nLogging:\n",
        "\nExamples:\n",
        "[env: POLYRANK_PORT]",
        "[env: POLYRANK_API_KEY]",
        "[default: 30s]",
    ] {
        assert!(help.contains(part), "{part:?} in {help}");
    }
}

#[test]
fn prints_completions_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = run(&["completions", shell]);
        let script = stdout(&output);
        for part in ["polyrank", "classify", "max-batch-tokens"] {
            assert!(script.contains(part), "{shell}: {part}");
        }
    }
    assert_eq!(run(&["completions", "cmd"]).status.code(), Some(2));
}

/// The precision changes the scores, but not by much.
#[test]
fn dtype_is_that_of_the_base() {
    let scores = |dtype: &str| -> Vec<f64> {
        let output = classify(&["--dtype", dtype, "--text", "The plot was not very good."], b"");
        let line: Value = serde_json::from_str(stdout(&output)).unwrap();
        line["labels"].as_array().unwrap().iter().map(|label| label["score"].as_f64().unwrap()).collect()
    };
    let exact = scores("f32");
    for dtype in ["bf16", "int8"] {
        let found = scores(dtype);
        assert_ne!(found, exact, "{dtype}");
        assert!(
            found.iter().zip(&exact).all(|(found, exact)| (found - exact).abs() < 0.05),
            "{dtype}: {found:?} {exact:?}"
        );
    }
}

/// Three texts for two adapters in turn, or for both.
#[test]
fn bench_measures_what_it_is_asked_for() {
    let (room, base) = (TempDir::new().unwrap(), golden(""));
    let (adapters, empty) = (room.path().join("adapters"), room.path().join("empty"));
    std::fs::create_dir(&empty).unwrap();
    for name in ["plain", "ragged"] {
        std::fs::create_dir_all(adapters.join(name)).unwrap();
        for file in std::fs::read_dir(golden(name)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), adapters.join(name).join(file.file_name())).unwrap();
        }
    }
    let bench = |folder: &Path, more: &[&str], input: &[u8]| {
        let fixed =
            ["bench", "--model-id", base.to_str().unwrap(), "--adapters", folder.to_str().unwrap(), "--input", "-"];
        run_with(&[&fixed, more].concat(), input)
    };
    let texts = b"{\"text\": \"good\"}\n{\"text\": \"a b\"}\n{\"text\": \"a b\"}\n";
    let measured = |more: &[&str]| -> Value {
        serde_json::from_str(stdout(&bench(&adapters, &[&["--repeats", "1", "--json"], more].concat(), texts))).unwrap()
    };
    let (turns, all) = (measured(&[]), measured(&["--ask-all"]));
    assert_eq!((&turns["texts"], &turns["adapters"], &turns["dtype"]), (&3.into(), &2.into(), &"f32".into()));
    assert_eq!((&all["texts"], &all["adapters"]), (&6.into(), &2.into()));
    assert_eq!((&all["device"], &measured(&["--dtype", "int8"])["dtype"]), (&"cpu".into(), &"int8".into()));
    assert_eq!(all["tokens"].as_u64().unwrap(), 2 * turns["tokens"].as_u64().unwrap());
    let positive = |value: &Value| value.as_f64().unwrap() > 0.0;
    for of in [&turns, &all] {
        assert!(positive(&of["texts_per_second"]) && positive(&of["tokens_per_second"]), "{of}");
        assert!(
            positive(&of["latency_ms"]["p50"]) && of["latency_ms"]["p99"].as_f64() >= of["latency_ms"]["p50"].as_f64()
        );
    }
    assert!(turns.get("one_by_one").is_none());
    let [apart, together] = [&all["one_by_one"], &all].map(|of| of["latency_ms"]["p50"].as_f64().unwrap());
    assert!((all["one_by_one"]["speedup"].as_f64().unwrap() - apart / together).abs() < 1e-9, "{all}");
    let told = bench(&adapters, &["--repeats", "1"], texts);
    assert!(stdout(&told).starts_with("3 texts of "), "{}", stdout(&told));
    for (folder, input, words) in [(&adapters, &b""[..], "has no texts"), (&empty, &texts[..], "has no adapters")] {
        let output = bench(folder, &[], input);
        assert!(output.status.code() == Some(1) && one_line(&output).contains(words), "{}", one_line(&output));
    }
}

/// A folder that is something else is named as what it is.
#[test]
fn wrong_folders_are_explained() {
    let folder = TempDir::new().unwrap();
    let empty = folder.path().to_str().unwrap();
    let refused = |args: &[&str], words: &str| {
        let output = run(args);
        assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{args:?}");
        assert!(one_line(&output).contains(words), "{}", one_line(&output));
    };
    refused(&["pull", empty], "config.json: no such file; a base has ");
    let adapter = golden("ragged");
    refused(&["pull", adapter.to_str().unwrap()], "no such file; the folder is an adapter; a base has ");
    refused(&["inspect", empty], "adapter_config.json: No such file");
    let golden = golden("");
    let golden = golden.to_str().unwrap();
    refused(&["inspect", golden], "it is a model, not an adapter");
    refused(&["classify", "--model-id", golden, "--adapter", golden, "--text", "a"], "it is a model, not an adapter");
    std::fs::create_dir(folder.path().join("plain")).unwrap();
    std::fs::write(folder.path().join("plain/adapter_config.json"), "{}").unwrap();
    refused(&["inspect", empty], "it is not an adapter itself, but holds some, such as ");
}

#[test]
fn writes_a_manual_page_for_each_command() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("share/man1");
    assert_eq!(stdout(&run(&["man", dir.to_str().unwrap()])), "");
    for (name, part) in [("polyrank", "classify"), ("polyrank-serve", "POLYRANK_PORT"), ("polyrank-pull", "Examples")] {
        let page = std::fs::read_to_string(dir.join(name).with_extension("1")).unwrap();
        assert!(page.contains(part), "{page}");
    }
    // The path of a file is refused, because a folder is needed.
    let output = run(&["man", dir.join("polyrank.1").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(one_line(&output).contains("polyrank.1"));
}

#[test]
fn serve_refuses_invalid_settings() {
    for (flag, value) in [
        ("--max-batch-tokens", "0"),
        ("--payload-limit", "0"),
        ("--adapter-memory", "99999999999GiB"),
        ("--adapter-memory", "-1GiB"),
        ("--request-timeout", "0s"),
        ("--request-timeout", "30"),
        ("--keep-alive-timeout", "0s"),
        ("--body-memory", "0"),
        ("--hostname", "[localhost]"),
        ("--hostname", "[127.0.0.1]"),
        ("--api-key", " "),
    ] {
        let output = run(&["serve", "--adapters", "a", &format!("{flag}={value}")]);
        assert_eq!(output.status.code(), Some(2), "{flag} {value}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(flag));
    }
}

/// Before the base is opened, so that nothing is fetched for it.
#[test]
fn serve_refuses_to_let_the_network_replace_adapters_without_a_key() {
    let adapters = golden("");
    let base = ["serve", "--model-id", "/nowhere", "--adapters", adapters.to_str().unwrap(), "--allow-adapter-updates"];
    let serve = |args: &[&str]| run(&[&base[..], &["--port", "0"], args].concat());
    assert!(one_line(&serve(&["--hostname", "0.0.0.0"])).contains("needs --api-key"));
    for allowed in [&["--hostname", "127.0.0.1"][..], &["--hostname", "0.0.0.0", "--api-key", "k"]] {
        let told = String::from_utf8(serve(allowed).stderr).unwrap();
        assert!(told.contains("no model \"/nowhere\""), "{told}");
    }
}
