//! `polyrank serve`.

mod announce;

use std::future::Future;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};
use std::{io, panic, process, thread};

use clap::Args;
use clap::builder::BoolishValueParser;
use polyrank::engine::Error;
use polyrank::logging;
use polyrank::server::{self, App, Config};
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;

use super::{BaseArgs, Failure};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    config: Config,
    /// Address to listen on
    #[arg(long, env = "POLYRANK_HOSTNAME", default_value = "127.0.0.1", value_parser = hostname, help_heading = "Network")]
    hostname: String,
    /// Port to listen on; 0 chooses a free one
    #[arg(long, env = "POLYRANK_PORT", default_value_t = 8080, help_heading = "Network")]
    port: u16,
    /// Log in JSON
    #[arg(long, env = "POLYRANK_JSON_OUTPUT", value_parser = BoolishValueParser::new(), help_heading = "Logging")]
    pub(super) json_output: bool,
}

/// A host's name or address. An IPv6 address may stand in brackets, as in a URL.
fn hostname(text: &str) -> Result<String, &'static str> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match inner {
        Some(inner) if inner.parse::<Ipv6Addr>().is_err() => Err("only an IPv6 address may stand in brackets"),
        _ => Ok(inner.unwrap_or(text).to_owned()),
    }
}

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank serve --adapters adapters
  polyrank serve --model-id FacebookAI/roberta-base --adapters adapters --dtype int8 --port 0
  POLYRANK_API_KEY=secret polyrank serve --adapters adapters --hostname 0.0.0.0 --preload intent,urgency
  polyrank serve --adapters adapters --hostname 0.0.0.0 --api-key-file /run/secrets/polyrank
  curl -s localhost:8080/classify/intent -H 'content-type: application/json' -d '{\"inputs\": \"Where is my parcel?\"}'

RUST_LOG chooses what is logged, for example RUST_LOG=polyrank=debug.";

pub(super) fn serve(args: ServeArgs) -> Result<(), Failure> {
    let runtime = or_end(runtime)?;
    let served = runtime.block_on(listen_and_serve(args));
    // Threads that still tokenize or read files do so for requests that have already timed out.
    runtime.shutdown_background();
    logging::flush();
    served
}

/// How long a thread for blocking work stays without work: for ever.
const KEPT: Duration = Duration::from_secs(u32::MAX as u64);

/// The runtime, with all threads that it needs.
fn runtime() -> Result<Runtime, Error> {
    // More threads for blocking work would each keep memory of their own. They never end: where the system has no thread to spare, the
    // work for the next one would wait for ever, and keep its permits.
    let threads = server::blocking_threads();
    let mut runtime = runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().max_blocking_threads(threads).thread_keep_alive(KEPT).build();
    let runtime = runtime.map_err(Error::Thread)?;
    // One is enough, because then tokio does without others that cannot be started.
    runtime.block_on(runtime.spawn_blocking(|| ())).map_err(|error| Error::Thread(error.into()))?;
    Ok(runtime)
}

/// Ends the process if `start` panics, as the runtime does where a thread cannot be started. It would then wait for threads that never
/// started.
fn or_end<T>(start: impl FnOnce() -> T) -> T {
    let hook = Arc::new(panic::take_hook());
    let usual = Arc::clone(&hook);
    panic::set_hook(Box::new(move |panic| {
        usual(panic);
        process::exit(1);
    }));
    let started = start();
    panic::set_hook(Box::new(move |panic| hook(panic)));
    started
}

/// Catches signals and listens before anything that takes time, so that probes and signals find the process from the start.
async fn listen_and_serve(args: ServeArgs) -> Result<(), Failure> {
    args.config.check_exposure(&args.hostname)?;
    let stop = stop_signal()?;
    let (host, port) = (&*args.hostname, args.port);
    let listener = TcpListener::bind((host, port)).await.map_err(|error| {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let taken = error.kind() == std::io::ErrorKind::AddrInUse;
        let hint = if taken {
            "; another program listens there; --port chooses another one, and 0 any that is free"
        } else {
            ""
        };
        format!("listening on {host}:{port}: {error}{hint}")
    })?;
    let address = listener.local_addr()?;
    tracing::info!("starting on {address}: /health answers, /ready will once the base is open");
    let id = &args.base.model_id;
    // `default` stands for a repository of the hub.
    let model_id = polyrank::base::repository(id).map_or_else(|| id.clone(), |(id, _)| id);
    let config = Config { model_id, ..args.config };
    let opening = open(args.base, config.clone(), address)?;
    server::serve(listener, &config, opening, stop).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Opens everything that requests need, in a thread of its own, which a shutdown does not wait for.
fn open(
    base: BaseArgs,
    config: Config,
    address: SocketAddr,
) -> Result<impl Future<Output = Result<Arc<App>, Failure>>, Failure> {
    let (opened, opening) = oneshot::channel();
    let work = move || -> Result<Arc<App>, Failure> {
        // A wrong folder is reported before a long download.
        let folder = &config.adapters;
        std::fs::read_dir(folder).map_err(|error| format!("--adapters {}: {error}", folder.display()))?;
        let engine = Arc::new(base.open()?);
        engine.warm_up()?;
        let app = Arc::new(App::new(engine, config)?);
        app.scheduler().on_stall(end_of_process()?);
        // The drop of the last one would wait for a forward pass that may never end. The process ends instead.
        std::mem::forget(Arc::clone(&app));
        announce::announce(&app);
        Ok(app)
    };
    thread::Builder::new().name("open".into()).spawn(move || drop(opened.send(work()))).map_err(Error::Thread)?;
    Ok(async move {
        let app = opening.await.unwrap_or_else(|_| Err("opening the base panicked; the log has the cause".into()))?;
        // All connections that are accepted from now on get all routes.
        tracing::info!("listening on http://{address}");
        Ok(app)
    })
}

/// How long the log may take for its last lines: somewhat longer than [`logging::flush`] does.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Returns a function that ends the process once the log has its last lines: the threads' stacks, or the device's error.
fn end_of_process() -> Result<impl Fn() + Send + Sync, Error> {
    let (end, ended) = sync_channel(1);
    // The watchdog, which calls the function, must not wait for the log or the allocator. So another thread does.
    let flush = move || {
        if ended.recv().is_ok() {
            logging::flush();
            process::abort()
        }
    };
    thread::Builder::new().name("end".into()).spawn(flush).map_err(Error::Thread)?;
    Ok(move || {
        let _ = end.try_send(());
        thread::sleep(LAST_LINES);
        process::abort()
    })
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
            logging::flush();
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
