//! The scheduler over fake forward passes: which requests it accepts, batches, answers and withdraws.

mod admission;
mod answers;
mod batches;
mod faults;
mod pipeline;

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use polyrank::adapter::{Adapter, AdapterInfo, AdapterWeights, Files};
use polyrank::engine::{Error, Pending, Row};
use polyrank::params::{Backend, Layout};
use polyrank::registry::{Registry, RegistryError, Source};
use polyrank::scheduler::{BatchReport, Failed, Limits, Pipeline, Refused, Request, Scheduler, StallTimeouts, take};
use polyrank::text::Encoded;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const ROOMY: Limits = Limits {
    batch_tokens: 1000,
    queued_tokens: 1000,
    timeout: HOUR,
    stall_timeouts: StallTimeouts { times: 20, least: HOUR, unknown: HOUR, grace: HOUR },
};

fn adapter() -> Arc<Adapter> {
    Arc::new(Adapter {
        info: AdapterInfo { labels: Vec::new(), problem_type: None, base_fingerprint: None, base_model: None },
        weights: AdapterWeights { sites: Vec::new(), head: BTreeMap::new() },
    })
}

/// A text of `tokens` tokens that are all `id`.
fn row(id: u32, tokens: usize, adapter: &Arc<Adapter>) -> Row {
    let text = Encoded { ids: vec![id; tokens], type_ids: vec![0; tokens], truncated: false };
    Row { text, adapter: Arc::clone(adapter) }
}

/// Logits by which a test recognises each row.
fn echo(rows: &[Row]) -> Result<Vec<Vec<f32>>, Error> {
    Ok(rows.iter().map(|row| vec![row.text.ids[0] as f32, row.text.ids.len() as f32]).collect())
}

/// A fake forward pass. It reports the first token of each row of a batch, and waits until the test lets the batch pass. It must be
/// dropped before the scheduler, which waits for its batches.
struct Gate {
    began: Receiver<Vec<u32>>,
    leave: Sender<()>,
}

impl Gate {
    fn start(limits: Limits) -> (Scheduler, Self) {
        let (began_sender, began) = channel();
        let (leave, leave_receiver) = channel();
        let forward = move |rows: &[Row]| {
            // Without the gate, all batches pass.
            let _ = began_sender.send(rows.iter().map(|row| row.text.ids[0]).collect());
            let _ = leave_receiver.recv();
            echo(rows)
        };
        (Scheduler::start(limits, forward, |_| ()).unwrap(), Self { began, leave })
    }

    /// Waits until a batch runs, and returns the first tokens of its rows.
    fn began(&self) -> Vec<u32> {
        self.began.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    fn pass(&self) {
        self.leave.send(()).unwrap();
    }
}
