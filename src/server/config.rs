//! The settings of `polyrank serve`. Each setting is declared here only, with its name, environment variable, default and help, which
//! clap reads.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser, RangedU64ValueParser};
use clap::{ArgAction, Args};

pub use super::key::ApiKey;
use super::key::{KeyParser, key_file};

use super::start_error::StartError;
use crate::registry::Updates;

use crate::scheduler::StallTimeouts;

pub use super::cors::Origin;

/// The most texts that `--max-client-batch-size` may allow in a request, and the most adapters.
pub(super) const MOST_TEXTS: usize = 1 << 14;

/// The settings of the server.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// The base: a folder, or the id of a repository on the hub, for which `default` stands too. `/info` reports it.
    #[arg(skip)]
    pub model_id: String,
    /// How long a forward pass may take before the watchdog reports it.
    #[arg(skip)]
    pub stall_timeouts: StallTimeouts,
    /// Folder of adapters: each subfolder that holds an adapter_config.json is an adapter
    #[arg(long, env = "POLYRANK_ADAPTERS", value_name = "DIR", help_heading = "Adapters")]
    pub adapters: PathBuf,
    /// Memory for loaded adapters, in bytes: 1GiB, 64MiB, 4096
    #[arg(long, env = "POLYRANK_ADAPTER_MEMORY", value_name = "BYTES", default_value = "1GiB", value_parser = bytes,
          help_heading = "Adapters")]
    pub adapter_memory: usize,
    /// Adapters to load before the first request; they are never evicted for others
    #[arg(long, env = "POLYRANK_PRELOAD", value_name = "A,B", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new(),
          help_heading = "Adapters")]
    pub preload: Vec<String>,
    /// What happens when an adapter's files change: auto swaps in the new version, manual serves the old one until a PUT
    #[arg(
        long,
        env = "POLYRANK_ADAPTER_UPDATES",
        value_enum,
        value_name = "auto|manual",
        default_value_t,
        hide_possible_values = true,
        help_heading = "Adapters"
    )]
    pub adapter_updates: Updates,
    /// Let clients replace and remove adapters with PUT and DELETE /adapters/{name}; off the loopback, this needs --api-key
    #[arg(long, env = "POLYRANK_ALLOW_ADAPTER_UPDATES", value_parser = BoolishValueParser::new(), help_heading = "Adapters")]
    pub allow_adapter_updates: bool,
    /// Refuse adapters that name another base and have no fingerprint, instead of serving them with a warning
    #[arg(long, env = "POLYRANK_STRICT_BASE", value_parser = BoolishValueParser::new(), help_heading = "Adapters")]
    pub strict_base: bool,
    /// Adapter for requests that name none: `POST /classify` with `inputs` alone, on a host that is not named like an adapter
    #[arg(long, env = "POLYRANK_DEFAULT_ADAPTER", value_name = "A", value_parser = NonEmptyStringValueParser::new(),
          help_heading = "Adapters")]
    pub default_adapter: Option<String>,
    /// Maximum number of tokens in a batch; a single text may be longer
    #[arg(long, env = "POLYRANK_MAX_BATCH_TOKENS", value_name = "N", default_value = "16384", value_parser = positive(),
          help_heading = "Batching")]
    pub max_batch_tokens: usize,
    /// Maximum number of tokens in the queue; requests beyond that get 429, as do requests that could not be answered in time
    #[arg(long, env = "POLYRANK_MAX_QUEUED_TOKENS", value_name = "N", default_value = "131072", value_parser = positive(),
          help_heading = "Batching")]
    pub max_queued_tokens: usize,
    /// Maximum number of texts in a request, and of adapters that it asks
    #[arg(long, env = "POLYRANK_MAX_CLIENT_BATCH_SIZE", value_name = "N", default_value = "32",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=MOST_TEXTS as u64), help_heading = "Limits")]
    pub max_client_batch_size: usize,
    /// Maximum size of a request's body in bytes: 2000000, 4MiB
    #[arg(long, env = "POLYRANK_PAYLOAD_LIMIT", value_name = "BYTES", default_value = "2000000", value_parser = bytes,
          help_heading = "Limits")]
    pub payload_limit: usize,
    /// Memory for the bodies of all requests together, in bytes, raised to three times --payload-limit; requests beyond that get 429.
    /// Bodies of up to 64 KiB have an eighth as much beside it, and answers that clients have not read as much, or 64 MiB
    #[arg(long, env = "POLYRANK_BODY_MEMORY", value_name = "BYTES", default_value = "32MiB", value_parser = bytes,
          help_heading = "Limits")]
    pub body_memory: usize,
    /// Time limit for reading a request's head, for answering it, and for the client to take the answer, with a second more for each
    /// 64 KiB of it: 30s, 500ms, 2m
    #[arg(long, env = "POLYRANK_REQUEST_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration,
          help_heading = "Limits")]
    pub request_timeout: Duration,
    /// How long a connection may stay idle between two requests; must be longer than a load balancer before the server keeps it
    /// (AWS: 60s, Google Cloud: 600s)
    #[arg(long, env = "POLYRANK_KEEP_ALIVE_TIMEOUT", value_name = "TIME", default_value = "120s", value_parser = duration,
          help_heading = "Limits")]
    pub keep_alive_timeout: Duration,
    /// How long the server goes on after SIGTERM, with /ready at 503, before it refuses requests: longer than a load balancer needs to
    /// stop sending them
    #[arg(long, env = "POLYRANK_SHUTDOWN_DELAY", value_name = "TIME", default_value = "0s", value_parser = duration_or_none,
          help_heading = "Limits")]
    pub shutdown_delay: Duration,
    /// Whether to truncate texts that are too long, unless a request says otherwise
    #[arg(long, env = "POLYRANK_AUTO_TRUNCATE", value_name = "BOOL", default_value = "true", action = ArgAction::Set,
          value_parser = BoolishValueParser::new(), help_heading = "Limits")]
    pub auto_truncate: bool,
    /// API key that requests must send as `Authorization: Bearer K`; probes, /docs with its document, and the page need none
    #[arg(long, env = "POLYRANK_API_KEY", value_name = "K", hide_env_values = true, allow_hyphen_values = true,
          value_parser = KeyParser, help_heading = "Security")]
    pub api_key: Option<ApiKey>,
    /// File with the API key, which other users of this machine then cannot see among the arguments
    #[arg(long, env = "POLYRANK_API_KEY_FILE", value_name = "FILE", conflicts_with = "api_key", value_parser = key_file,
          help_heading = "Security")]
    pub api_key_file: Option<ApiKey>,
    /// Origins whose web pages may use the server: `https://app.example,http://localhost:3000`, or `*` for all
    #[arg(
        long,
        env = "POLYRANK_CORS_ALLOW_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        help_heading = "Security"
    )]
    pub cors_allow_origin: Vec<Origin>,
    /// Log a line for each request: status, time and tokens
    #[arg(long, env = "POLYRANK_ACCESS_LOG", value_parser = BoolishValueParser::new(), help_heading = "Logging")]
    pub access_log: bool,
    /// OpenTelemetry collector that gets a trace of each request, over HTTP: `http://localhost:4318`
    #[cfg(feature = "otlp")]
    #[arg(long, env = "POLYRANK_OTLP_ENDPOINT", value_name = "URL", help_heading = "Logging")]
    pub otlp_endpoint: Option<axum::http::Uri>,
}

impl Config {
    /// The API key, from whichever setting gives it.
    #[must_use]
    pub fn key(&self) -> Option<&ApiKey> {
        self.api_key.as_ref().or(self.api_key_file.as_ref())
    }

    /// Refuses settings under which anybody in the network could replace adapters, if the server listens on `hostname`.
    ///
    /// # Errors
    /// Adapters may be replaced without an API key, and `hostname` is not the loopback.
    pub fn check_exposure(&self, hostname: &str) -> Result<(), StartError> {
        let address = hostname.trim_start_matches('[').trim_end_matches(']');
        let loopback = address == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if self.allow_adapter_updates && self.key().is_none() && !loopback {
            return Err(StartError::Exposed { hostname: hostname.into() });
        }
        Ok(())
    }
}

/// Reads a whole number above 0.
fn positive() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// Reads a number of bytes above 0, in the units of [`parse_size`].
fn bytes(text: &str) -> Result<usize, String> {
    let bytes = parse_size::parse_size(text);
    let bytes = bytes.map_err(|_| "expected a number of bytes, such as 4096, 512MiB or 2GB".to_owned())?;
    match usize::try_from(bytes) {
        Ok(0) => Err("must be above 0".into()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("is more than this machine can address".into()),
    }
}

/// The longest time that a setting may give: a year. Far longer times would overflow the clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Reads a time above 0, in the units of [`humantime`].
fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_none(text)? {
        Duration::ZERO => Err("must be above 0".into()),
        time => Ok(time),
    }
}

/// Reads a time, which may be 0.
fn duration_or_none(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time > LONGEST => Err("must be at most a year".into()),
        other => other.map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::{Command, FromArgMatches};

    use super::*;

    #[test]
    fn bytes_take_units_and_must_be_above_zero() {
        for (text, expected) in [
            ("7B", 7),
            ("4096", 4096),
            ("2000000", 2_000_000),
            ("4KiB", 4096),
            ("64MiB", 64 << 20),
            ("3 MiB", 3 << 20),
            ("1GiB", 1 << 30),
            ("2MB", 2_000_000),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "0GiB", "GiB", "-1", "-1GiB", "1XB", "99999999999GiB", "99999999999999999999", "nonsense"]
        {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_take_units_and_must_be_above_zero() {
        for (text, milliseconds) in [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "30", "0", "0s", "0ms", "s", "-1s", "99999999999999999m", "18446744073709551615s", "2years"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_setting_has_an_environment_variable_help_and_a_section() {
        let command = Config::augment_args(Command::new("serve"));
        for arg in command.get_arguments() {
            let flag = arg.get_long().unwrap();
            let env = format!("POLYRANK_{}", flag.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(&*env));
            assert!(arg.get_help_heading().is_some() && arg.get_help().is_some(), "{flag}");
        }
    }

    fn parse(args: &[&str]) -> Result<Config, clap::Error> {
        // The environment variables of whoever runs the tests must not count.
        let command = Config::augment_args(Command::new("serve")).mut_args(|arg| arg.env(None::<&str>));
        let matches = command.try_get_matches_from([&["serve", "--adapters", "a"], args].concat())?;
        Config::from_arg_matches(&matches)
    }

    #[test]
    fn replacing_adapters_off_the_loopback_needs_a_key() {
        let (closed, open) = (parse(&[]).unwrap(), parse(&["--allow-adapter-updates"]).unwrap());
        let keyed = Config { api_key: Some(ApiKey::new("k")), ..open.clone() };
        for hostname in ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"] {
            assert!(open.check_exposure(hostname).is_ok(), "{hostname}");
        }
        for hostname in ["0.0.0.0", "::", "[::]", "10.0.0.1", "example.org", ""] {
            let told = open.check_exposure(hostname).unwrap_err().to_string();
            assert!(told.contains("--api-key"), "{told}");
            assert!(closed.check_exposure(hostname).is_ok() && keyed.check_exposure(hostname).is_ok());
        }
        assert_eq!((closed.adapter_updates, closed.strict_base), (Updates::Auto, false));
        assert_eq!(parse(&["--adapter-updates", "manual"]).unwrap().adapter_updates, Updates::Manual);
        assert!(parse(&["--adapter-updates", "never"]).is_err());
    }

    #[test]
    fn numbers_must_be_above_zero() {
        let config = parse(&[]).unwrap();
        assert_eq!((config.max_batch_tokens, config.adapter_memory, config.auto_truncate), (16384, 1 << 30, true));
        for flag in ["--max-batch-tokens", "--max-queued-tokens", "--max-client-batch-size", "--payload-limit"] {
            assert!(parse(&[flag, "1"]).is_ok(), "{flag}");
            for wrong in ["0", "-1", "x", "99999999999999999999999"] {
                assert!(parse(&[&format!("{flag}={wrong}")]).is_err(), "{flag} {wrong}");
            }
        }
    }
}
