//! Bases from the Hugging Face hub, or a server that speaks its protocol.

use std::path::Path;
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::progress::Progress;
use super::pull::{CONFIG, Download, OPTIONAL, REQUIRED, Recipe, pinned};
use super::source::Sources;
use super::{BaseConfig, ModelError};

/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
pub(super) const ENDPOINT: &str = "https://huggingface.co";

/// Name and connection: where there is no way to the hub, that is to be known soon.
const CONNECT: Duration = Duration::from_secs(5);
/// Each read. A download as a whole may take as long as it takes.
const READ: Duration = Duration::from_secs(30);

/// Fetches the files of `recipe` into `dir`.
pub(super) fn fetch(sources: &Sources, recipe: &Recipe, dir: &Path, progress: &dyn Progress) -> Result<(), ModelError> {
    let hub = Hub::new(sources);
    let address = |name| format!("{}/{}/resolve/main/{name}", sources.endpoint, recipe.id);
    let required = |name| {
        let from = address(name);
        match hub.file(&from, pinned(recipe.pins, name), &dir.join(name), progress)? {
            true => Ok(()),
            false => Err(ModelError::Fetch { from, reason: "HTTP status 404".to_owned() }),
        }
    };
    required(CONFIG)?;
    BaseConfig::read(dir)?;
    hub.file(&address(OPTIONAL), None, &dir.join(OPTIONAL), progress)?;
    REQUIRED.into_iter().try_for_each(required)
}

struct Hub<'a> {
    agent: Agent,
    token: Option<&'a str>,
}

impl<'a> Hub<'a> {
    fn new(sources: &'a Sources) -> Self {
        let config = Agent::config_builder()
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(READ))
            .http_status_as_error(false)
            .user_agent(concat!("polyrank/", env!("CARGO_PKG_VERSION")))
            // Big files lie on other hosts, which must not see the token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost);
        Self { agent: config.build().into(), token: sources.token.as_deref() }
    }

    /// The file at the address `from`; false where there is none. Without a pin, it is checked against what the hub says that
    /// it is.
    fn file(&self, from: &str, pin: Option<&str>, path: &Path, progress: &dyn Progress) -> Result<bool, ModelError> {
        let stated = match pin {
            Some(_) => None,
            None => self.stated(from)?,
        };
        let fetch = |reason: String| ModelError::Fetch { from: from.to_owned(), reason };
        let request = self.agent.get(from);
        let response = self.authorized(request).call().map_err(|error| fetch(error.to_string()))?;
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(false),
            status => return Err(fetch(format!("HTTP status {status}"))),
        }
        let body = response.into_body();
        let download = Download { from, sha256: pin.or(stated.as_deref()), bytes: body.content_length() };
        download.save(body.into_reader(), path, progress)?;
        Ok(true)
    }

    /// The SHA-256 that the hub states for a big file. It does so where it redirects to the file, so that is not followed.
    fn stated(&self, from: &str) -> Result<Option<String>, ModelError> {
        let request = self.agent.head(from).config().max_redirects(0).max_redirects_will_error(false).build();
        let response: Response<Body> = self
            .authorized(request)
            .call()
            .map_err(|error| ModelError::Fetch { from: from.to_owned(), reason: error.to_string() })?;
        let stated = response.headers().get("x-linked-etag").and_then(|value| value.to_str().ok());
        let stated = stated.map(|value| value.trim_start_matches("W/").trim_matches('"'));
        Ok(stated.filter(|value| value.len() == 64).map(str::to_ascii_lowercase))
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}
