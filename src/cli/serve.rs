//! `polyrank serve`.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{ArgAction, Args};
use polyrank::error::Error;
use polyrank::server::{self, ApiKey, App, Config};
use tokio::net::TcpListener;

use super::{BaseArgs, Failure, units};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    base: BaseArgs,
    /// Folder of the adapters: each subfolder with an adapter_config.json is one.
    #[arg(long, env = "POLYRANK_ADAPTERS", value_name = "DIR")]
    adapters: PathBuf,
    /// Address to listen on.
    #[arg(long, env = "POLYRANK_HOSTNAME", default_value = "127.0.0.1")]
    hostname: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, env = "POLYRANK_PORT", default_value_t = 8080)]
    port: u16,
    /// The most tokens of a batch; a single text may be longer.
    #[arg(long, env = "POLYRANK_MAX_BATCH_TOKENS", value_name = "N", default_value = "16384", value_parser = units::positive)]
    max_batch_tokens: usize,
    /// The most tokens that wait; beyond them requests get 429, and so do those that could not be answered in time.
    #[arg(long, env = "POLYRANK_MAX_QUEUED_TOKENS", value_name = "N", default_value = "131072", value_parser = units::positive)]
    max_queued_tokens: usize,
    /// The most texts of a request.
    #[arg(long, env = "POLYRANK_MAX_CLIENT_BATCH_SIZE", value_name = "N", default_value = "32", value_parser = units::positive)]
    max_client_batch_size: usize,
    /// The most bytes of a request's body.
    #[arg(long, env = "POLYRANK_PAYLOAD_LIMIT", value_name = "BYTES", default_value = "2000000", value_parser = units::bytes)]
    payload_limit: usize,
    /// From a request to its answer: 30s, 500ms, 2m. As long may a connection wait for its next request.
    #[arg(long, env = "POLYRANK_REQUEST_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    request_timeout: Duration,
    /// The most bytes that adapters take in memory: 1GiB, 64MiB, 4096.
    #[arg(long, env = "POLYRANK_ADAPTER_MEMORY", value_name = "BYTES", default_value = "1GiB", value_parser = units::bytes)]
    adapter_memory: usize,
    /// Cut texts that are too long where a request does not say.
    #[arg(long, env = "POLYRANK_AUTO_TRUNCATE", value_name = "BOOL", default_value = "true", action = ArgAction::Set,
          value_parser = BoolishValueParser::new())]
    auto_truncate: bool,
    /// Adapters to load before the first request.
    #[arg(long, env = "POLYRANK_PRELOAD", value_name = "A,B", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    preload: Vec<String>,
    /// A key that requests must bear: `Authorization: Bearer K`. /health and /ready are open.
    #[arg(long, env = "POLYRANK_API_KEY", value_name = "K", hide_env_values = true, value_parser = units::key)]
    api_key: Option<String>,
    /// Log in JSON.
    #[arg(long, env = "POLYRANK_JSON_OUTPUT", value_parser = BoolishValueParser::new())]
    pub(super) json_output: bool,
}

pub(super) fn serve(args: ServeArgs) -> Result<(), Failure> {
    let engine = Arc::new(args.base.open()?);
    let address = (args.hostname.clone(), args.port);
    let app = Arc::new(App::new(engine, args.config())?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Thread)?;
    let served = runtime.block_on(async {
        let told = format!("{}:{}", address.0, address.1);
        let listener = TcpListener::bind(address).await.map_err(|error| format!("listening on {told}: {error}"))?;
        let stop = stop_signal()?;
        tracing::info!("listening on http://{}", listener.local_addr()?);
        server::run(listener, app, stop).await;
        tracing::info!("stopped");
        Ok(())
    });
    // What still tokenises or reads works for nobody any more.
    runtime.shutdown_background();
    served
}

impl ServeArgs {
    fn config(self) -> Config {
        Config {
            model_id: self.base.model_id,
            adapters: self.adapters,
            max_batch_tokens: self.max_batch_tokens,
            max_queued_tokens: self.max_queued_tokens,
            max_client_batch_size: self.max_client_batch_size,
            payload_limit: self.payload_limit,
            request_timeout: self.request_timeout,
            adapter_memory: self.adapter_memory,
            auto_truncate: self.auto_truncate,
            preload: self.preload,
            api_key: self.api_key.as_deref().map(ApiKey::new),
        }
    }
}

/// Signals so close together are one: a terminal tells a whole group of processes, and its parent tells it once more.
const TOGETHER: Duration = Duration::from_secs(1);

/// Ends at the first signal to stop; a second one ends the process.
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut signals = Signals::listen()?;
    Ok(async move {
        signals.next().await;
        tracing::info!("stopping: requests that wait are answered first; a second signal does not wait");
        let first = Instant::now();
        tokio::spawn(async move {
            while first.elapsed() < TOGETHER {
                signals.next().await;
            }
            tracing::warn!("stopped by a second signal");
            std::process::exit(1)
        });
    })
}

/// SIGINT and SIGTERM; heeded as long as the process lives.
#[cfg(unix)]
struct Signals(tokio::signal::unix::Signal, tokio::signal::unix::Signal);

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// Ctrl-C.
#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self(tokio::signal::windows::ctrl_c()?))
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}
