//! Adapters that are replaced, broken, removed and put back while the server runs.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use polyrank::registry::{Registry, Updates};

use super::*;

/// The files of an adapter.
const FILES: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", "config.json"];

/// Copies the adapter `from` to the folder `to`, file by file.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in FILES {
        match fs::read(from.join(file)) {
            Ok(bytes) => fs::write(to.join(file), bytes).unwrap(),
            Err(_) => drop(fs::remove_file(to.join(file))),
        }
    }
}

/// Replaces the adapter in the folder `to` by that in `from`, at once.
fn replace(from: &Path, to: &Path) {
    let (new, old) = (to.with_extension("new"), to.with_extension("old"));
    copy(from, &new);
    fs::rename(to, &old).unwrap();
    fs::rename(&new, to).unwrap();
    fs::remove_dir_all(old).unwrap();
}

/// Waits until another thread makes a condition true, without keeping a core busy.
fn soon(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The versions under test, with the name under which each is a template.
const VERSIONS: [&str; 3] = ["plain", "ragged", "bighead"];

/// While one adapter is swapped from version to version, every answer is that of a version that was on disk while the request ran:
/// its labels and its scores.
#[test]
fn swaps_under_load_never_mix_versions() {
    let world = World::new();
    copy(&world.root.join("plain"), &world.root.join("live"));
    let server = world.start();
    let expected: Vec<Value> = VERSIONS.iter().map(|name| server.classify(name, TEXT).body).collect();
    assert_eq!(server.classify("live", TEXT).body, expected[0]);
    // The number of the latest exchange on disk, and of the latest whose version has answered.
    let (placed, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (done, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let served = Mutex::new([0; VERSIONS.len()]);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let first = answered.load(Ordering::SeqCst);
                    let answer = server.classify("live", TEXT);
                    let last = placed.load(Ordering::SeqCst);
                    assert_eq!(answer.status, 200, "{answer:?}");
                    let version = expected.iter().position(|expected| *expected == answer.body);
                    let version = version.unwrap_or_else(|| panic!("a mixed answer: {answer:?}"));
                    // An old version serves until the new one has been found and read, and never again.
                    let current = (first..=last).any(|round| round % VERSIONS.len() == version);
                    assert!(current, "version {version} between the exchanges {first} and {last}");
                    served.lock().unwrap()[version] += 1;
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 1..=6 {
            let version = round % VERSIONS.len();
            placed.store(round, Ordering::SeqCst);
            replace(&server.root.join(VERSIONS[version]), &server.root.join("live"));
            soon("the new version answers", || server.classify("live", TEXT).body == expected[version]);
            answered.store(round, Ordering::SeqCst);
            let before = answers.load(Ordering::Relaxed);
            soon("others ask as well", || answers.load(Ordering::Relaxed) > before + 2);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(served.lock().unwrap().iter().all(|count| *count > 0), "{served:?}");
    assert_eq!(server.app.registry().counters().swaps, 6);
}

#[test]
fn half_written_and_broken_updates_do_not_harm_what_serves() {
    let server = World::new().start();
    let before = server.classify("plain", TEXT);
    let other = server.classify("ragged", TEXT);
    let weights = server.root.join("plain/adapter_model.safetensors");
    let whole = fs::read(&weights).unwrap();
    let new = fs::read(server.root.join("ragged/adapter_model.safetensors")).unwrap();
    let problem = || server.get("/adapters/plain").body["problem"].as_str().map(str::to_owned);
    for broken in [&new[..new.len() / 2], &[], b"not a safetensors file", &new] {
        fs::write(&weights, broken).unwrap();
        soon("the update is refused", || {
            problem().is_some_and(|told| told.contains("plain/adapter_model.safetensors"))
        });
        assert_eq!(server.classify("plain", TEXT).body, before.body);
        fs::write(&weights, &whole).unwrap();
        soon("the problem is gone", || problem().is_none());
    }
    assert!(server.app.registry().counters().refused_updates >= 4);
    assert_eq!(server.get("/adapters/plain").body["generation"], 1);
    // In the end, the new version is complete.
    copy(&server.root.join("ragged"), &server.root.join("plain"));
    soon("the new version answers", || server.classify("plain", TEXT).body == other.body);
}

#[test]
fn new_folder_that_is_still_copied_gets_503_and_then_an_answer() {
    let server = World::new().start();
    let (from, to) = (server.root.join("ragged"), server.root.join("fresh"));
    let whole = fs::read(from.join("adapter_model.safetensors")).unwrap();
    copy(&from, &to);
    fs::write(to.join("adapter_model.safetensors"), &whole[..whole.len() - 100]).unwrap();
    let early = server.classify("fresh", TEXT);
    assert_error(&early, 503, "NotReady", "still changing");
    assert_eq!(early.header("retry-after"), Some("1"));
    fs::write(to.join("adapter_model.safetensors"), &whole).unwrap();
    assert_eq!(server.classify("fresh", TEXT).body, server.classify("ragged", TEXT).body);
}

#[test]
fn put_and_delete_change_what_is_served() {
    let world = World::new().with(|config| config.allow_adapter_updates = true);
    let server = world.with(|config| config.default_adapter = Some("ragged".into())).start();
    let (plain, ragged) = (server.classify("plain", TEXT), server.classify("ragged", TEXT));
    let first = server.put("new", r#"{"path": "plain"}"#, None);
    assert_eq!((first.status, &first.body["name"], &first.body["tier"]), (200, &json!("new"), &json!("memory")));
    let tag = first.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", first.body["generation"]));
    assert_eq!(server.get("/adapters/new").header("etag"), Some(&*tag));
    assert_eq!(server.classify("new", TEXT).body, plain.body);

    let second = server.put("new", r#"{"path": "ragged"}"#, Some(&tag));
    assert_eq!(second.status, 200, "{second:?}");
    assert_ne!(second.header("etag"), Some(&*tag));
    assert_eq!(server.classify("new", TEXT).body, ragged.body);
    for lost in [server.put("new", r#"{"path": "plain"}"#, Some(&tag)), server.delete("new", Some(&tag))] {
        assert_error(&lost, 409, "Conflict", "generation");
    }
    for (body, status, error_type) in [
        ("{", 400, "BadRequest"),
        (r#"{"folder": "plain"}"#, 400, "BadRequest"),
        (r#"{"path": 1}"#, 400, "BadRequest"),
        (r#"["plain"]"#, 400, "BadRequest"),
        (r#"{"path": "a\u0000b"}"#, 422, "InvalidAdapter"),
        (r#"{"path": "nowhere"}"#, 422, "Unprocessable"),
        (r#"{"path": ".."}"#, 422, "Unprocessable"),
        (r#"{"path": "/etc"}"#, 422, "Unprocessable"),
        (r#"{"path": "."}"#, 422, "Unprocessable"),
        (r#"{"path": "config.json"}"#, 422, "Unprocessable"),
    ] {
        assert_error(&server.put("new", body, None), status, error_type, "");
    }
    for name in [".hidden", "a/b/c"] {
        assert_error(&server.put(name, r#"{"path": "plain"}"#, None), 422, "Unprocessable", "cannot be the name");
    }
    assert_error(&server.put("new", "{}", Some("W/abc")), 400, "BadRequest", "If-Match");
    assert_eq!(server.classify("new", TEXT).body, ragged.body, "what failed changes nothing");

    let gone = server.delete("new", second.header("etag"));
    assert_eq!((gone.status, gone.header("etag")), (200, second.header("etag")));
    assert_error(&server.classify("new", TEXT), 404, "UnknownAdapter", "new");
    assert_error(&server.get("/adapters/new"), 404, "UnknownAdapter", "new");
    assert_error(&server.delete("new", None), 404, "UnknownAdapter", "new");
    // Without a path, the folder of its name is meant.
    assert_eq!(server.delete("plain", None).status, 200);
    assert_error(&server.classify("plain", TEXT), 404, "UnknownAdapter", "plain");
    // Also where the host names it: the default adapter does not answer for it.
    let by_host = |host| server.post("/classify", &[("host", host)], TEXT);
    assert_error(&by_host("plain.models"), 404, "UnknownAdapter", "plain");
    assert_eq!(json!([by_host("nobody.models").body]), ragged.body);
    assert_eq!(server.put("plain", "", Some("*")).status, 409);
    assert_eq!(server.put("plain", "", None).status, 200);
    assert_eq!(server.classify("plain", TEXT).body, plain.body);
}

/// What a PUT and a DELETE have changed lasts until the server ends. They change no files.
#[test]
fn folders_are_the_truth_after_a_restart() {
    let server = World::new().with(|config| config.allow_adapter_updates = true).start();
    let files = |name: &str| fs::read(server.root.join(name).join("adapter_model.safetensors")).unwrap();
    let before = ["plain", "ragged"].map(files);
    let generation = |name: &str| server.app.registry().get(name).unwrap().adapter().info.labels.clone();
    let labels = ["plain", "ragged"].map(generation);
    assert_ne!(labels[0], labels[1]);
    assert_eq!(server.put("plain", r#"{"path": "ragged"}"#, None).status, 200);
    assert_eq!(server.delete("ragged", None).status, 200);
    assert_eq!(generation("plain"), labels[1]);
    assert_eq!(["plain", "ragged"].map(files), before);
    let restarted = Registry::new(Arc::<Engine>::clone(server.app.engine()), &server.root, usize::MAX).unwrap();
    assert_eq!(["plain", "ragged"].map(|name| restarted.get(name).unwrap().adapter().info.labels.clone()), labels);
}

#[test]
fn manual_updates_wait_for_a_put() {
    let bytes =
        |name: &str| World::new().start().get(&format!("/adapters/{name}")).body["bytes"].as_u64().unwrap() as usize;
    // There is room for one of them.
    let memory = bytes("plain").max(bytes("ragged"));
    let world = World::new().with(|config| (config.allow_adapter_updates, config.adapter_memory) = (true, memory));
    let server = world.with(|config| config.adapter_updates = Updates::Manual).start();
    let (plain, ragged) = (server.classify("plain", TEXT), server.classify("ragged", TEXT));
    assert_eq!(server.classify("plain", TEXT).body, plain.body);
    copy(&server.root.join("ragged"), &server.root.join("plain"));
    assert_eq!(server.classify("plain", TEXT).body, plain.body, "the version in memory serves");
    // It is evicted, and what is in the folder now is another version.
    assert_eq!(server.classify("ragged", TEXT).body, ragged.body);
    assert_error(&server.classify("plain", TEXT), 409, "Conflict", "PUT");
    assert_eq!(server.put("plain", "", None).status, 200);
    assert_eq!(server.classify("plain", TEXT).body, ragged.body);
}

/// A host that named no adapter gets the default adapter's answers from memory. Once there is an adapter of its name, it gets that one's.
#[test]
fn adapter_that_a_host_names_is_found_once_it_is_there() {
    let server = World::new().with(|config| config.default_adapter = Some("plain".into())).start();
    let (plain, ragged) = (server.classify("plain", TEXT), server.classify("ragged", TEXT));
    let by_host = || json!([server.post("/classify", &[("host", "fresh.models")], TEXT).body]);
    for _ in 0..3 {
        assert_eq!(by_host(), plain.body);
    }
    copy(&server.root.join("ragged"), &server.root.join("fresh"));
    soon("the adapter of the host answers", || by_host() == ragged.body);
}

#[test]
fn put_and_delete_exist_only_where_they_are_allowed() {
    let server = World::new().start();
    let put = server.put("plain", "{}", None);
    assert_error(&put, 405, "MethodNotAllowed", "PUT");
    assert_eq!(put.header("allow"), Some("GET,HEAD"));
    assert_error(&server.delete("plain", None), 405, "MethodNotAllowed", "DELETE");
}

#[test]
fn adapters_that_are_gone_are_404_and_a_folder_that_is_gone_is_503() {
    let server = World::new().start();
    assert_eq!(server.classify("plain", TEXT).status, 200);
    fs::remove_dir_all(server.root.join("plain")).unwrap();
    soon("it is unknown", || server.classify("plain", TEXT).status == 404);
    assert_eq!(server.classify("ragged", TEXT).status, 200);
    let away = server.root.with_extension("away");
    fs::rename(&server.root, &away).unwrap();
    soon("the server is not ready", || server.get("/ready").status == 503);
    for answer in [server.classify("ragged", TEXT), server.classify("plain", TEXT), server.get("/adapters")] {
        assert_error(&answer, 503, "NotReady", "folder is gone");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(server.get("/health").status, 200);
    fs::rename(&away, &server.root).unwrap();
    soon("the server is ready again", || server.get("/ready").status == 200);
    assert_eq!(server.classify("ragged", TEXT).status, 200);
}

/// A proxy before the server may have read another of these headers.
#[test]
fn ambiguous_headers_are_refused() {
    let server = World::new().with(|config| config.allow_adapter_updates = true).start();
    let twice = |line: &str, first: &str, second: &str| {
        let headers =
            format!("{first}\r\n{second}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{TEXT}", TEXT.len());
        server.raw(format!("{line} HTTP/1.1\r\n{headers}").as_bytes())
    };
    let reply = twice("POST /classify", "Host: plain", "Host: ragged");
    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("Host: expected one, found several"), "{reply}");
    let reply = twice("DELETE /adapters/plain", "Host: x\r\nIf-Match: \"1\"", "If-Match: \"99\"");
    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("If-Match: expected one, found several"), "{reply}");
}

/// Names and values of an adapter's files do not make answers long.
#[test]
fn reasons_of_refused_adapters_are_short() {
    let server = World::new().start();
    copy(&server.root.join("plain"), &server.root.join("long"));
    let config = serde_json::json!({"peft_type": "x".repeat(1 << 20)}).to_string();
    fs::write(server.root.join("long/adapter_config.json"), config).unwrap();
    wait_until(|| server.classify("long", TEXT).status != 503);
    let answer = server.classify("long", TEXT);
    assert_eq!(answer.status, 422, "{answer:?}");
    assert!(answer.body["error"].as_str().unwrap().len() < 1200);
}
