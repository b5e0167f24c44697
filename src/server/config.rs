//! What `polyrank serve` is told, resolved once.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// The base as it was asked for: a folder, a hub id or `default`. Told by `/info`, nothing else.
    pub model_id: String,
    /// Folder of the adapters' folders.
    pub adapters: PathBuf,
    /// The most tokens of a batch; a single text may be longer.
    pub max_batch_tokens: usize,
    /// The most tokens that wait; beyond them requests get 429.
    pub max_queued_tokens: usize,
    /// The most texts of a request.
    pub max_client_batch_size: usize,
    /// The most bytes of a request's body.
    pub payload_limit: usize,
    /// From the request's head to its answer.
    pub request_timeout: Duration,
    /// The most bytes that adapters take in memory.
    pub adapter_memory: usize,
    /// Whether texts that are too long are cut where a request does not say.
    pub auto_truncate: bool,
    /// Adapters to load before the first request.
    pub preload: Vec<String>,
    /// What requests must bear, if anything.
    pub api_key: Option<ApiKey>,
}

/// A key that requests must bear. Only its SHA-256 is kept, so that it appears in no log and comparing takes the same time
/// wherever two keys differ.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey([u8; 32]);

impl ApiKey {
    /// The key `key`.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Whether it is `key`.
    #[must_use]
    pub fn is(&self, key: &[u8]) -> bool {
        self.0 == <[u8; 32]>::from(Sha256::digest(key))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_itself_alone_and_never_printed() {
        let key = ApiKey::new("secret");
        assert!(key.is(b"secret"));
        for other in [&b""[..], b"secre", b"secret ", b"Secret"] {
            assert!(!key.is(other), "{other:?}");
        }
        assert_eq!(format!("{key:?}"), "ApiKey(..)");
    }
}
