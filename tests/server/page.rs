//! The page at `/` in a real browser. Without Chromium these tests are skipped with a line that says so.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A label and a name that would run a script if the page took text for markup.
const HOSTILE: &str = "<img src=x onerror=document.title='broken'>";

/// The text that a link asks about.
const ASKED: &str = "<script>document.title='broken'</script> good film";

/// Stands between the browser and the server, and can pretend that an adapter was swapped.
struct Front {
    address: std::net::SocketAddr,
}

impl Front {
    /// `swapped` is the adapter of which the server seems to have a new version after two scrapes.
    fn start(server: &Arc<Running>, swapped: Option<&'static str>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (server, scrapes) = (Arc::clone(server), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, scrapes) = (Arc::clone(&server), Arc::clone(&scrapes));
                thread::spawn(move || answer(stream.unwrap(), &server, swapped, &scrapes));
            }
        });
        Self { address }
    }

    fn url(&self, query: &str) -> String {
        format!("http://{}/{query}", self.address)
    }
}

/// Answers one request. A browser that went away is no error.
fn answer(mut stream: TcpStream, server: &Running, swapped: Option<&str>, scrapes: &AtomicUsize) {
    let mut request = Vec::new();
    let mut buffer = [0; 65536];
    let (head, body) = loop {
        let Ok(read @ 1..) = stream.read(&mut buffer) else { return };
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let lines = head.lines().filter(|line| !line.to_lowercase().starts_with("connection:"));
    let shown: String = lines.map(|line| format!("{line}\r\n")).collect();
    let reply = server.raw(format!("{shown}connection: close\r\n\r\n{body}").as_bytes());
    let scraped = scrapes.fetch_add(usize::from(head.starts_with("GET /metrics ")), Ordering::Relaxed);
    let reply = match swapped {
        Some(name) if scraped >= 2 => swap(&reply, name),
        _ => reply,
    };
    let _ = stream.write_all(reply.as_bytes());
}

/// The reply with another generation of `name`, which has the first one.
fn swap(reply: &str, name: &str) -> String {
    // The length changes with the generation. Without it, the end of the connection ends the body.
    let reply = reply.replacen("content-length:", "x-length:", 1);
    let reply = reply
        .replace(&format!("adapter=\"{name}\",generation=\"1\""), &format!("adapter=\"{name}\",generation=\"77\""));
    let Some((before, status)) = reply.split_once(&format!("{{\"name\":\"{name}\"")) else { return reply };
    format!("{before}{{\"name\":\"{name}\"{}", status.replacen("\"generation\":1,", "\"generation\":77,", 1))
}

/// The document after its scripts have run for `milliseconds`; `None` without Chromium.
fn document(url: &str, milliseconds: usize) -> Option<String> {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,1000"]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("--virtual-time-budget={milliseconds}")).arg("--dump-dom").arg(url);
    match command.output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) => {
            println!("skipped: chromium cannot be started ({error})");
            None
        }
    }
}

fn assert_contains(document: &str, parts: &[&str]) {
    for part in parts {
        let shown = document.split("<script>").next().and_then(|page| page.split("<body>").nth(1)).unwrap_or(document);
        assert!(document.contains(part), "no {part} in\n{shown}");
    }
}

/// The goldens' world with an adapter whose name and labels are hostile.
fn hostile() -> World {
    let world = World::new();
    let (from, to) = (world.root.join("ragged"), world.root.join("<b>hostile<"));
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let config = fs::read_to_string(from.join("config.json")).unwrap();
    assert!(config.contains("\"neutral\""), "{config}");
    fs::write(to.join("config.json"), config.replace("\"neutral\"", &Value::from(HOSTILE).to_string())).unwrap();
    world
}

#[test]
fn page_is_served_under_a_strict_policy_without_a_key() {
    let server = World::new().with(|config| config.api_key = Some(ApiKey::new("s3cret"))).start();
    let reply = server.raw(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert_contains(
        head,
        &[
            "content-type: text/html; charset=utf-8",
            "content-security-policy: default-src 'none'; script-src 'sha256-",
            "require-trusted-types-for 'script'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ],
    );
    assert!(!head.contains("unsafe"), "{head}");
    // The page loads nothing from elsewhere: the only addresses are the names of SVG's elements.
    let addresses = body.matches("http").count();
    assert_eq!(addresses, body.matches("http://www.w3.org/2000/svg").count());
}

#[test]
fn page_lists_adapters_and_answers_a_link() {
    let server = Arc::new(hostile().with(|config| config.preload = vec!["ragged".into()]).start());
    let front = Front::start(&server, None);
    let escaped = |text: &str| text.replace('<', "%3C").replace('>', "%3E").replace(' ', "%20");
    let query = format!("?text={}&adapter=bighead&adapter={}&run=1", escaped(ASKED), escaped("<b>hostile<"));
    let Some(document) = document(&front.url(&query), 5000) else { return };
    assert_contains(
        &document,
        &[
            "<title>polyrank</title>",
            // The base, a row with a rank map, and labels of an adapter that was loaded before.
            "base <b>tiny</b>",
            "<span class=\"name mono cut\">ragged</span><span class=\"labels cut\"><bdi>negative</bdi>, <bdi>neutral</bdi>, ",
            "<svg class=\"map\"",
            // Both adapters' results, with bars. All of a softmax's labels lie in [0, 1].
            ">bighead</h3>",
            "All 17 labels",
            ">&lt;b&gt;hostile&lt;</h3>",
            "class=\"bar best\"",
            // The hostile label is text.
            "&lt;img src=x onerror=document.title='broken'&gt;",
            "<span id=\"p50\">",
            "data-state=\"live\"",
        ],
    );
    assert!(!document.contains("<img"), "a label became an element");
    assert_eq!(document.matches("<b>hostile").count(), 0, "a name became an element");
}

#[test]
fn page_shows_a_swap() {
    let server = Arc::new(World::new().with(|config| config.preload = vec!["ragged".into()]).start());
    let front = Front::start(&server, Some("ragged"));
    let Some(document) = document(&front.url(""), 12_000) else { return };
    assert_contains(&document, &["class=\"row changed", "generation 1 → 77", "new version"]);
}

#[test]
fn page_asks_for_the_key() {
    let server = World::new().with(|config| config.api_key = Some(ApiKey::new("s3cret"))).start();
    let Some(document) = document(&format!("http://{}/", server.address), 3000) else { return };
    assert_contains(&document, &["id=\"key-form\">", "The server needs its API key."]);
    assert!(!document.contains("bighead"), "names of adapters need the key");
}

#[test]
fn page_keeps_only_rows_in_view_of_many_adapters() {
    let world = World::new();
    let source = world.root.join("onelabel");
    for n in 0..500 {
        let folder = world.root.join(format!("many-{n:03}"));
        fs::create_dir(&folder).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::hard_link(source.join(file), folder.join(file)).unwrap();
        }
    }
    let server = world.start();
    let Some(document) = document(&format!("http://{}/", server.address), 4000) else { return };
    let rows = document.matches("aria-posinset").count();
    assert!((5..60).contains(&rows), "{rows} rows");
    assert!(document.contains("aria-setsize=\"51"), "all adapters are counted");
}
