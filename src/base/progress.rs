//! Shows the progress of a fetch on standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Receives the progress of a fetch.
pub trait Progress {
    /// `what` begins; `bytes` is its size, if it is known.
    fn begin(&self, what: &str, bytes: Option<u64>);

    /// `bytes` more bytes have been received.
    fn advance(&self, bytes: u64);

    /// The current item has ended, successfully or not.
    fn end(&self);
}

/// Shows nothing.
impl Progress for () {
    fn begin(&self, _what: &str, _bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}

/// A progress bar on standard error if that is a terminal; a spinner if the number of bytes is unknown.
pub struct Bar(ProgressBar);

impl Default for Bar {
    fn default() -> Self {
        Self(ProgressBar::new_spinner())
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, bytes: Option<u64>) {
        let (template, otherwise): (_, fn() -> ProgressStyle) = match bytes {
            Some(_) => ("{msg} [{bar:40}] {bytes}/{total_bytes} {eta}", ProgressStyle::default_bar),
            None => ("{spinner} {msg} {elapsed}", ProgressStyle::default_spinner),
        };
        self.0.reset();
        self.0.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| otherwise()));
        self.0.set_message(what.to_owned());
        match bytes {
            Some(bytes) => self.0.set_length(bytes),
            None => self.0.unset_length(),
        }
        self.0.enable_steady_tick(Duration::from_millis(100));
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn end(&self) {
        self.0.disable_steady_tick();
        self.0.finish_and_clear();
    }
}
