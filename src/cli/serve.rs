//! `polyrank serve`.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::BoolishValueParser;
use polyrank::engine::Error;
use polyrank::server::{self, App, Config};
use tokio::net::TcpListener;

use super::{BaseArgs, Failure};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    config: Config,
    /// Address to listen on
    #[arg(long, env = "POLYRANK_HOSTNAME", default_value = "127.0.0.1", help_heading = "Network")]
    hostname: String,
    /// Port to listen on; 0 chooses a free one
    #[arg(long, env = "POLYRANK_PORT", default_value_t = 8080, help_heading = "Network")]
    port: u16,
    /// Log in JSON
    #[arg(long, env = "POLYRANK_JSON_OUTPUT", value_parser = BoolishValueParser::new(), help_heading = "Logging")]
    pub(super) json_output: bool,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank serve --adapters adapters
  polyrank serve --model-id FacebookAI/roberta-base --adapters adapters --dtype int8 --port 0
  POLYRANK_API_KEY=secret polyrank serve --adapters adapters --hostname 0.0.0.0 --preload intent,urgency
  curl -s localhost:8080/classify/intent -H 'content-type: application/json' -d '{\"inputs\": \"Where is my parcel?\"}'

RUST_LOG chooses what is logged, for example RUST_LOG=polyrank=debug.";

pub(super) fn serve(args: ServeArgs) -> Result<(), Failure> {
    let engine = Arc::new(args.base.open()?);
    let config = Config { model_id: args.base.model_id, ..args.config };
    let address = (args.hostname, args.port);
    let app = Arc::new(App::new(engine, config)?);
    // The log has the threads' stacks.
    app.scheduler().on_stall(|| std::process::abort());
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
    // Threads that still tokenize or read files do so for requests that have already timed out.
    runtime.shutdown_background();
    served
}

/// Signals within this time count as one: a terminal sends a signal to a whole group of processes, and a parent process may forward
/// it as well.
const TOGETHER: Duration = Duration::from_secs(1);

/// A future that ends at the first signal to stop. After that, a second signal ends the process.
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut signals = Signals::listen()?;
    Ok(async move {
        signals.next().await;
        tracing::info!("stopping once the waiting requests are answered; a second signal stops at once");
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

/// SIGINT and SIGTERM, which are caught until the process ends.
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
