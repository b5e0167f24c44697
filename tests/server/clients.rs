//! The clients in `examples/`, each against a running server. A client whose program is missing on this machine is skipped, and the
//! test says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::*;

/// `examples/clients/classify.rs`, which is an example of its own.
fn rust_client() -> PathBuf {
    let binary = std::env::current_exe().unwrap();
    binary.parent().unwrap().parent().unwrap().join("examples/client")
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Runs a client with the server's address and further arguments.
fn run(program: &[&str], server: &Running, arguments: &[&str]) -> Output {
    run_with(program, server, arguments, &[])
}

/// [`run`] with these variables of the environment.
fn run_with(program: &[&str], server: &Running, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg(format!("http://{}", server.address)).args(arguments);
    let output = command.env_remove("POLYRANK_API_KEY").envs(variables.iter().copied()).output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Whether `program` runs here.
fn exists(program: &[&str]) -> bool {
    let found = Command::new(program[0]).args(&program[1..]).output().is_ok_and(|output| output.status.success());
    if !found {
        println!("skipped: `{}` does not run on this machine", program.join(" "));
    }
    found
}

/// A client prints the best label by the first adapter, and the labels by each.
fn check(program: &[&str]) {
    const TEXT: &str = "The \"plot\" was\nnot very good.";
    let server = World::new().start();
    let output = run(program, &server, &[TEXT, "ragged", "plain"]);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [one, several] = &lines[..] else { panic!("{lines:?}") };
    let ask = |name: &str| server.classify(name, json!({"inputs": TEXT}).to_string()).body;
    // Hugging Face's client takes the list of the only text out.
    let best = one[0].get(0).unwrap_or(&one[0]);
    assert_eq!(best["label"], ask("ragged")[0][0]["label"]);
    let score = |value: &Value| value["score"].as_f64().unwrap();
    assert!((score(best) - score(&ask("ragged")[0][0])).abs() < 1e-6);
    for name in ["ragged", "plain"] {
        assert_eq!(labels(&several[name][0]), labels(&ask(name)[0]), "{name}");
        for (a, b) in scores(&several[name][0]).iter().zip(scores(&ask(name)[0])) {
            assert!((a - b).abs() < 1e-6, "{name}");
        }
    }
    assert_eq!(several.as_object().unwrap().len(), 2);
    let failed = run(program, &server, &[TEXT, "nobody"]);
    assert!(!failed.status.success(), "a client tells that it failed: {failed:?}");
    // Only the key of this server is sent to it, and no token for the hub.
    let server = World::new().with(|config| config.api_key = Some(ApiKey::new("s3cret"))).start();
    for (variable, may_ask) in [("POLYRANK_API_KEY", true), ("HF_TOKEN", false)] {
        let output = run_with(program, &server, &[TEXT, "plain"], &[(variable, "s3cret")]);
        let has_scores = String::from_utf8_lossy(&output.stdout).contains("score");
        assert_eq!((output.status.success(), has_scores), (may_ask, may_ask), "{variable}: {output:?}");
    }
}

#[test]
fn curl() {
    if exists(&["curl", "--version"]) && exists(&["bash", "--version"]) {
        check(&["bash", example("clients/classify.sh").to_str().unwrap()]);
    }
}

/// `POLYRANK_TEST_PYTHON` names an interpreter that has the packages.
#[test]
fn python() {
    let named = std::env::var("POLYRANK_TEST_PYTHON");
    let python = named.clone().unwrap_or_else(|_| "python3".into());
    if exists(&[&python, "-c", "import huggingface_hub, requests"]) {
        check(&[&python, example("clients/classify.py").to_str().unwrap()]);
    } else {
        assert!(named.is_err(), "{named:?} lacks the packages");
    }
}

#[test]
fn go() {
    if exists(&["go", "version"]) {
        check(&["go", "run", example("clients/classify.go").to_str().unwrap()]);
    }
}

#[test]
fn rust() {
    let client = rust_client();
    if client.exists() {
        check(&[client.to_str().unwrap()]);
    } else {
        println!("skipped: the example `client` is not built; `cargo test` without a filter for targets builds it");
    }
}

/// The checks of the semantic router's client accept the adapter of the host, and refuse labels that are not configured.
#[test]
fn semantic_router() {
    if !exists(&["go", "version"]) {
        return;
    }
    let server = World::new().start();
    let program = example("semantic-router/main.go");
    let program = ["go", "run", program.to_str().unwrap()];
    let output = run(&program, &server, &["plain.models.svc", "good", "LABEL_0", "LABEL_1"]);
    assert!(output.status.success(), "{output:?}");
    let distribution: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = server.classify("plain", r#"{"inputs": "good"}"#).body;
    for entry in expected[0].as_array().unwrap() {
        let score = distribution[entry["label"].as_str().unwrap()].as_f64().unwrap();
        assert!((score - entry["score"].as_f64().unwrap()).abs() < 1e-6);
    }
    for (host, labels, part) in [
        ("plain.models.svc", &["LABEL_0"][..], "\"LABEL_1\" is not configured"),
        ("plain.models.svc", &["LABEL_0", "LABEL_1", "LABEL_2"], "\"LABEL_2\" is missing"),
        ("nobody.models.svc", &["LABEL_0"], "status 404"),
        // A sigmoid's scores of several labels are no distribution, and a regression's value is none either.
        ("onelabel.models.svc", &["similarity"], "score"),
    ] {
        let output = run(&program, &server, &[&[host, "good"], labels].concat());
        assert!(!output.status.success(), "{host} {labels:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(part), "{host} {labels:?}: {told}");
    }
}
