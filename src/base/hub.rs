//! Fetches files from the Hugging Face hub, or a server that speaks its protocol.
//!
//! The crate `hf-hub` (1.0) is not used, because its downloads are neither checked by SHA-256 nor resumed after a broken connection. It
//! would also add an asynchronous runtime, `reqwest` and `hf-xet` to every build, where a few requests with `ureq` are enough.

use std::cell::OnceCell;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::cache::Sources;
use super::files::{ADAPTER, ADAPTER_PICKLE, CONFIG, INDEX, PICKLE, PICKLE_INDEX, TOKENIZER, WEIGHTS};
use super::partial::{Fill, Partial};
use super::progress::Progress;
use super::recipe::{Recipe, pinned};
use super::tokenizer_files::SOURCES;
use super::{BaseConfig, ModelError, convert};
use crate::text::SIDE_FILES;

/// The time limit of resolving the name and of connecting: short, so that an unreachable hub is reported soon.
const CONNECT: Duration = Duration::from_secs(5);
/// The time limit of each read. A whole download has no limit.
const READ: Duration = Duration::from_secs(30);

/// The header with a big file's SHA-256.
const LINKED: &str = "x-linked-etag";

/// The header with the commit that a revision names.
const COMMIT: &str = "x-repo-commit";

/// The number of redirects that are followed for renamed repositories.
const RENAMES: usize = 5;

/// The number of times that a broken download is resumed before it fails.
const RETRIES: usize = 3;

/// The limit of an answer of the hub's API, in bytes.
const LARGEST_ANSWER: u64 = 64 << 20;

/// The bytes that stand in an address for themselves.
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A file's path in a repository, as it stands in an address.
fn escaped(path: &str) -> String {
    utf8_percent_encode(path, &PLAIN).to_string()
}

/// Fetches the files of `recipe` into `dir`, and converts those in older formats.
pub(super) fn fetch(sources: &Sources, recipe: &Recipe, dir: &Path, progress: &dyn Progress) -> Result<(), ModelError> {
    let hub = Hub::new(sources, recipe, dir, progress);
    hub.required(CONFIG)?;
    BaseConfig::read(dir)?;
    for name in SIDE_FILES {
        hub.optional(name)?;
    }
    if !hub.optional(TOKENIZER)? {
        // Fetches all that exist. If none does, the error names the file that should exist.
        let mut found = false;
        for name in SOURCES {
            found |= hub.optional(name)?;
        }
        if !found {
            return Err(hub.missing(TOKENIZER));
        }
        // A tokenizer that is not supported is refused before the weights are fetched.
        convert::tokenizer(dir)?;
    }
    if !hub.optional(WEIGHTS)? && !hub.sharded(INDEX)? && !hub.optional(PICKLE)? && !hub.sharded(PICKLE_INDEX)? {
        return Err(hub.missing(WEIGHTS));
    }
    convert::complete(dir)
}

/// Fetches an adapter's files into `dir`, and converts a pickle of its weights.
pub(super) fn fetch_adapter(
    sources: &Sources,
    recipe: &Recipe,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    let hub = Hub::new(sources, recipe, dir, progress);
    let [weights, config] = ADAPTER;
    if !hub.optional(weights)? {
        let pickle = dir.join(ADAPTER_PICKLE);
        if !hub.optional(ADAPTER_PICKLE)? {
            return Err(hub.missing(weights));
        }
        convert::unpickle(&dir.join(weights), std::slice::from_ref(&pickle))?;
        std::fs::remove_file(&pickle).map_err(ModelError::io(&pickle))?;
    }
    hub.required(config)?;
    hub.optional(CONFIG).map(drop)
}

/// A repository on the hub, and the folder for its files.
pub(super) struct Hub<'a> {
    agent: Agent,
    sources: &'a Sources,
    recipe: &'a Recipe<'a>,
    dir: &'a Path,
    progress: &'a dyn Progress,
    /// The commit of the first file. The other files are of the same, although the revision may name another by then. A server that
    /// does not name the commit is asked for the revision each time.
    commit: OnceCell<String>,
}

impl<'a> Hub<'a> {
    pub(super) fn new(sources: &'a Sources, recipe: &'a Recipe<'a>, dir: &'a Path, progress: &'a dyn Progress) -> Self {
        let config = Agent::config_builder()
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(READ))
            .http_status_as_error(false)
            .user_agent(concat!("polyrank/", env!("CARGO_PKG_VERSION")))
            // Big files are on other hosts, which must not see the token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost);
        Self { agent: config.build().into(), sources, recipe, dir, progress, commit: OnceCell::new() }
    }

    fn address(&self, name: &str) -> String {
        let id = self.recipe.id;
        let revision = self.commit.get().cloned().unwrap_or_else(|| self.recipe.escaped_revision());
        format!("{}/{id}/resolve/{revision}/{}", self.sources.endpoint, escaped(name))
    }

    fn missing(&self, name: &str) -> ModelError {
        ModelError::Fetch { from: self.address(name), reason: "HTTP status 404".to_owned() }
    }

    fn required(&self, name: &str) -> Result<(), ModelError> {
        if self.optional(name)? { Ok(()) } else { Err(self.missing(name)) }
    }

    /// Fetches the shards of an index; false if there is no such index.
    fn sharded(&self, index: &str) -> Result<bool, ModelError> {
        if !self.optional(index)? {
            return Ok(false);
        }
        for shard in convert::shards(&self.dir.join(index))? {
            let name = shard.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.required(&name)?;
        }
        Ok(true)
    }

    /// Fetches the file `name`; false if it does not exist.
    fn optional(&self, name: &str) -> Result<bool, ModelError> {
        self.save(name, &self.dir.join(name))
    }

    /// Fetches the file `name` to the file `to`; false if it does not exist. A broken download is resumed, in this call or in a later
    /// one.
    pub(super) fn save(&self, name: &str, to: &Path) -> Result<bool, ModelError> {
        let stated = self.stated(&self.address(name))?;
        // From now on, the address names the commit.
        let from = self.address(name);
        let pin = pinned(self.recipe.pins, name).map(str::to_owned);
        let partial = Partial::of(&self.sources.models(), &from, stated.etag.as_deref())?;
        let mut attempt = 0;
        loop {
            match self.attempt(&from, &partial, stated.etag.as_deref()) {
                Ok(false) => return Ok(false),
                Ok(true) => break,
                // Resumed only if this attempt received some bytes; otherwise the error is returned.
                Err(ModelError::Fetch { reason, .. }) if attempt < RETRIES && partial.grew() => {
                    attempt += 1;
                    tracing::warn!(%from, %reason, "the download broke; resuming");
                }
                Err(error) => return Err(error),
            }
        }
        partial.check(&from, pin.or(stated.sha256).as_deref())?;
        partial.publish(to)?;
        Ok(true)
    }

    /// The JSON that the hub's API answers for `path`; `None` if it knows no such thing.
    pub(super) fn api(&self, path: &str) -> Result<Option<Value>, ModelError> {
        let from = format!("{}/api/{path}", self.sources.endpoint);
        let fetch = |reason: String| ModelError::Fetch { from: from.clone(), reason };
        let response = self.authorized(self.agent.get(&from)).call().map_err(|error| fetch(error.to_string()))?;
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            status => return Err(fetch(format!("HTTP status {status}"))),
        }
        let body = response.into_body().into_reader().take(LARGEST_ANSWER);
        serde_json::from_reader(body).map(Some).map_err(|error| fetch(format!("the answer is not JSON: {error}")))
    }

    /// Downloads the part of the file that `partial` still lacks; false if the file does not exist.
    fn attempt(&self, from: &str, partial: &Partial, etag: Option<&str>) -> Result<bool, ModelError> {
        let fetch = |reason: String| ModelError::Fetch { from: from.to_owned(), reason };
        let mut request = self.authorized(self.agent.get(from));
        let begun = partial.len();
        if let Some(etag) = etag.filter(|_| begun > 0) {
            request = request.header("range", format!("bytes={begun}-")).header("if-range", etag);
        }
        let response = request.call().map_err(|error| fetch(error.to_string()))?;
        let range = response.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let append = match response.status().as_u16() {
            200 => false,
            206 if range.starts_with(&format!("bytes {begun}-")) => true,
            206 => return Err(fetch(format!("expected the bytes from {begun}, found {range:?}"))),
            404 => return Ok(false),
            // The whole file had been downloaded already.
            416 if begun > 0 && range == format!("bytes */{begun}") => return Ok(true),
            status => return Err(fetch(format!("HTTP status {status}"))),
        };
        let body = response.into_body();
        let bytes = body.content_length();
        partial.fill(from, body.into_reader(), Fill { append, bytes }, self.progress)?;
        Ok(true)
    }

    /// Remembers the commit of the first file, and returns what the hub states about a file, such as a big file's SHA-256. The hub
    /// states it in the redirect to the file, so that this redirect is not followed. A redirect that states nothing, as after a rename
    /// of the repository, is followed.
    fn stated(&self, from: &str) -> Result<Stated, ModelError> {
        let head = |address: &str| -> Result<Response<Body>, ModelError> {
            let request = self.agent.head(address).config().max_redirects(0).max_redirects_will_error(false).build();
            let answer = self.authorized(request).call();
            answer.map_err(|error| ModelError::Fetch { from: from.to_owned(), reason: error.to_string() })
        };
        let mut response = head(from)?;
        for _ in 0..RENAMES {
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let path = location.filter(|to| to.starts_with('/') && !to.starts_with("//"));
            let says_nothing = response.status().is_redirection() && !response.headers().contains_key(LINKED);
            let Some(path) = path.filter(|_| says_nothing) else { break };
            response = head(&format!("{}{path}", origin(from)))?;
        }
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if let Some(commit) = header(COMMIT).filter(|commit| is_commit(commit)) {
            self.commit.get_or_init(|| commit);
        }
        let linked = header(LINKED);
        let digest = linked.as_deref().map(|value| value.trim_start_matches("W/").trim_matches('"'));
        let sha256 = digest.filter(|value| value.len() == 64).map(str::to_ascii_lowercase);
        Ok(Stated { sha256, etag: linked.or(header("etag")) })
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.sources.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}

/// The `https://host` part of an address.
fn origin(address: &str) -> &str {
    let host = address.find("://").map_or(0, |at| at + 3);
    &address[..address[host..].find('/').map_or(address.len(), |at| host + at)]
}

/// Whether this is the full hash of a commit.
pub(super) fn is_commit(hash: &str) -> bool {
    hash.len() == 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What the hub states about a file before it sends the file.
struct Stated {
    sha256: Option<String>,
    /// The etag of this version of the file.
    etag: Option<String>,
}
