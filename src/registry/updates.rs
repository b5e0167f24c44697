//! The clock of a registry: a thread that has the files of adapters looked at and ends waits. It only queues jobs, so that a dead disk
//! does not stop it.
//!
//! Looks cost three system calls each. An adapter that was used since the last tick is looked at in the next one, and the others in
//! turn. Polling sees every change on every file system, also on network volumes and behind links, where the system would send no
//! notification.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::shared::Shared;

/// The time between ticks.
const TICK: Duration = Duration::from_millis(50);

/// The adapters' folder itself is looked at in every tick of this number.
const ROOT_TICKS: u64 = 2;

/// Starts the thread. It ends when the registry is closed.
pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<()> {
    let shared = Arc::downgrade(shared);
    thread::Builder::new().name("polyrank-watch".into()).spawn(move || run(&shared)).map(drop)
}

fn run(shared: &Weak<Shared>) {
    for tick in 0u64.. {
        thread::sleep(TICK);
        let Some(shared) = shared.upgrade() else { return };
        if shared.with(|state| state.is_stopped()) {
            return;
        }
        if tick.is_multiple_of(ROOT_TICKS) {
            shared.loader.look_at_root(&shared);
        }
        shared.with(|state| state.tick(Instant::now()));
        shared.loader.staff(&shared);
    }
}
