//! What all connections share: the routes, once the base is open, and the requests in progress.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Notify;

use super::app::App;
use super::config::Config;
use super::discard::{DiscardLimits, Rest};
use super::draining::WhileDraining;
use super::stream::Phase;
use super::{routes, starting};

/// What all connections share.
pub(super) struct Serving {
    /// How much of bodies that no answer needs is read.
    discard: DiscardLimits,
    open: OnceLock<(Arc<App>, TowerToHyperService<Router>)>,
    /// Whether the server is about to end.
    announced: AtomicBool,
    draining: AtomicBool,
    /// Requests in progress that arrived before the shutdown.
    requests: AtomicUsize,
    /// Notified when the last of them is answered.
    answered: Notify,
}

impl Serving {
    /// Nothing is open yet.
    pub(super) fn new(config: &Config) -> Self {
        Self {
            discard: DiscardLimits::new(config),
            open: OnceLock::new(),
            announced: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            answered: Notify::new(),
        }
    }

    /// Serves all routes from now on.
    pub(super) fn open(&self, app: Arc<App>) {
        let router = TowerToHyperService::new(routes::router(Arc::clone(&app)));
        // It is opened only once.
        let _ = self.open.set((app, router));
    }

    /// Whether all routes are served.
    pub(super) fn is_open(&self) -> bool {
        self.open.get().is_some()
    }

    /// Answers a request.
    pub(super) async fn answer(
        self: Arc<Self>,
        phase: Phase,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        phase.request();
        let counted = self.count();
        if counted.is_none() {
            request.extensions_mut().insert(WhileDraining);
        }
        let (request, rest) = Rest::of(request);
        let mut response = match self.open.get() {
            Some((_, router)) => router.call(request).await?,
            None => starting::answer(request.uri().path()),
        };
        rest.discard(&mut response, self.discard, &phase);
        if self.announced.load(Ordering::Relaxed) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        drop(counted);
        phase.answer();
        Ok(response)
    }

    /// Counts a request, unless the shutdown has begun.
    fn count(&self) -> Option<RequestInProgress<'_>> {
        // It counts before it looks, so that the shutdown waits for whatever it lets in.
        self.requests.fetch_add(1, Ordering::SeqCst);
        let counted = RequestInProgress(self);
        (!self.draining.load(Ordering::SeqCst)).then_some(counted)
    }

    /// Says in `/ready` that the server is about to end. It still accepts requests, but each answer closes its connection, so that
    /// clients with open connections look for another server before this one refuses them.
    pub(super) fn announce(&self) {
        self.announced.store(true, Ordering::SeqCst);
        if let Some((app, _)) = self.open.get() {
            app.drain();
        }
    }

    /// Accepts no more requests, and returns once every request that arrived before is answered.
    pub(super) async fn drain(&self) {
        self.announce();
        self.draining.store(true, Ordering::SeqCst);
        while self.requests.load(Ordering::SeqCst) > 0 {
            self.answered.notified().await;
        }
    }

    /// Sends the last traces. The app is never dropped where the process ends next.
    #[cfg(feature = "otlp")]
    pub(super) async fn finish_traces(&self) {
        if let Some((app, _)) = self.open.get() {
            let app = Arc::clone(app);
            // A panic there is in the log, and changes nothing here.
            let _ = tokio::task::spawn_blocking(move || app.finish_traces()).await;
        }
    }

    /// Ends what requests need.
    pub(super) fn close(&self) {
        if let Some((app, _)) = self.open.get() {
            app.close();
        }
    }
}

/// A request in progress.
struct RequestInProgress<'a>(&'a Serving);

impl Drop for RequestInProgress<'_> {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.answered.notify_one();
        }
    }
}
