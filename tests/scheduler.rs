//! The scheduler over fake forward passes: which requests it accepts, batches, answers and withdraws.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::{Device, Tensor};
use polyrank::adapter::{Adapter, AdapterInfo, AdapterWeights, Files};
use polyrank::engine::{Error, Row};
use polyrank::params::Layout;
use polyrank::registry::{Registry, RegistryError, Source};
use polyrank::scheduler::{Failed, Limits, Refused, Request, Scheduler, take};
use polyrank::text::Encoded;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const ROOMY: Limits = Limits { batch_tokens: 1000, queued_tokens: 1000, timeout: HOUR };

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

/// A fake forward pass. It reports the first token of each row of a batch, and waits until the test lets the batch pass.
struct Gate {
    began: Receiver<Vec<u32>>,
    leave: Sender<()>,
}

impl Gate {
    fn start(limits: Limits) -> (Self, Scheduler) {
        let (began_sender, began) = channel();
        let (leave, leave_receiver) = channel();
        let forward = move |rows: &[Row]| {
            began_sender.send(rows.iter().map(|row| row.text.ids[0]).collect()).unwrap();
            leave_receiver.recv().unwrap();
            echo(rows)
        };
        (Self { began, leave }, Scheduler::start(limits, forward).unwrap())
    }

    /// Waits until a batch runs, and returns the first tokens of its rows.
    fn began(&self) -> Vec<u32> {
        self.began.recv().unwrap()
    }

    fn pass(&self) {
        self.leave.send(()).unwrap();
    }
}

proptest! {
    /// For any queue: each row is taken once and in order. A batch is the longest front of the queue that keeps the limit, or one row.
    #[test]
    fn batches_take_every_row_once_in_order(
        sizes in prop::collection::vec(0usize..40, 0..60),
        limit in 1usize..100,
    ) {
        let mut queue: VecDeque<(usize, usize)> = sizes.iter().copied().enumerate().collect();
        let mut next = 0;
        while !queue.is_empty() {
            let batch = take(&mut queue, limit, |row| row.1);
            let ids: Vec<usize> = batch.iter().map(|row| row.0).collect();
            prop_assert_eq!(&ids, &(next..next + batch.len()).collect::<Vec<_>>());
            next += batch.len();

            let cost = |tokens: usize| tokens.max(1);
            let tokens: usize = batch.iter().map(|row| cost(row.1)).sum();
            prop_assert!(tokens <= limit || batch.len() == 1);
            if let Some(left_out) = queue.front() {
                prop_assert!(tokens + cost(left_out.1) > limit);
            }
        }
        prop_assert_eq!(next, sizes.len());
        prop_assert!(take(&mut queue, limit, |row| row.1).is_empty());
    }

    /// For any requests and limits, each request gets the logits of its own rows, in its own order.
    #[test]
    fn every_request_gets_its_own_logits(
        requests in prop::collection::vec(prop::collection::vec((1usize..20, 0usize..3), 0..8), 1..12),
        batch_tokens in 1usize..60,
    ) {
        let adapters = [adapter(), adapter(), adapter()];
        let scheduler = Scheduler::start(Limits { batch_tokens, queued_tokens: 10_000, timeout: HOUR }, echo).unwrap();
        let mut id = 0;
        let mut waiting = Vec::new();
        for request in &requests {
            let rows: Vec<Row> = request
                .iter()
                .map(|&(tokens, which)| {
                    id += 1;
                    row(id, tokens, &adapters[which])
                })
                .collect();
            waiting.push((echo(&rows).unwrap(), scheduler.submit(rows).unwrap()));
        }
        for (expected, answer) in waiting {
            prop_assert_eq!(answer.wait_blocking().unwrap(), expected);
        }
    }
}

#[test]
fn waiting_requests_of_different_adapters_run_in_one_batch() {
    let (gate, scheduler) = Gate::start(ROOMY);
    let (a, b) = (adapter(), adapter());
    let first = scheduler.submit(vec![row(1, 3, &a)]).unwrap();
    assert_eq!(gate.began(), [1]);
    let second = scheduler.submit(vec![row(2, 3, &a), row(3, 3, &b)]).unwrap();
    let third = scheduler.submit(vec![row(4, 3, &a)]).unwrap();
    gate.pass();
    assert_eq!(gate.began(), [2, 3, 4], "one batch, in the order of the requests");
    gate.pass();
    assert_eq!(first.wait_blocking().unwrap(), [[1.0, 3.0]]);
    assert_eq!(second.wait_blocking().unwrap(), [[2.0, 3.0], [3.0, 3.0]]);
    assert_eq!(third.wait_blocking().unwrap(), [[4.0, 3.0]]);
}

#[test]
fn full_queue_refuses_at_once_until_there_is_room() {
    let (gate, scheduler) = Gate::start(Limits { batch_tokens: 4, queued_tokens: 10, timeout: HOUR });
    let a = adapter();
    let running = scheduler.submit(vec![row(1, 4, &a)]).unwrap();
    gate.began();
    let waiting = scheduler.submit(vec![row(2, 4, &a), row(3, 4, &a)]).unwrap();
    assert_eq!(scheduler.queued_tokens(), 8);
    let refused = scheduler.submit(vec![row(4, 3, &a)]).unwrap_err();
    assert_eq!(
        refused,
        Refused::Overloaded { queued: 8, tokens: 3, limit: 10, retry_after: Duration::from_secs(1) },
        "nothing is known of the speed yet"
    );
    assert_eq!(scheduler.admits(3).unwrap_err(), refused);
    scheduler.admits(2).unwrap();
    gate.pass();
    assert_eq!(gate.began(), [2]);
    let accepted = scheduler.submit(vec![row(4, 3, &a)]).unwrap();
    for _ in 0..3 {
        gate.pass();
    }
    for (answer, expected) in
        [(running, vec![[1.0, 4.0]]), (waiting, vec![[2.0, 4.0], [3.0, 4.0]]), (accepted, vec![[4.0, 3.0]])]
    {
        assert_eq!(answer.wait_blocking().unwrap(), expected);
    }
}

/// The queue has room, but the deadline could not be met.
#[test]
fn refuses_at_once_what_could_not_run_in_time() {
    let forward = |rows: &[Row]| {
        std::thread::sleep(Duration::from_millis(2 * rows.iter().map(|row| row.text.ids.len() as u64).sum::<u64>()));
        echo(rows)
    };
    let a = adapter();
    let submitted = |timeout| {
        let scheduler = Scheduler::start(Limits { batch_tokens: 10, queued_tokens: 1000, timeout }, forward).unwrap();
        // The queue measures the speed, which is at most 500 tokens a second. The measurement of the first batch is in when the second
        // batch has run.
        for _ in 0..2 {
            scheduler.submit(vec![row(1, 10, &a)]).unwrap().wait_blocking().unwrap();
        }
        let (taken, refused): (Vec<_>, Vec<_>) =
            (0..30).map(|_| scheduler.submit(vec![row(2, 10, &a)])).partition(Result::is_ok);
        for answer in taken {
            assert_eq!(answer.unwrap().wait_blocking().unwrap(), [[2.0, 10.0]]);
        }
        scheduler.submit(vec![row(3, 10, &a)]).unwrap().wait_blocking().unwrap();
        refused.into_iter().map(|refused| refused.unwrap_err()).collect::<Vec<_>>()
    };
    let refused = submitted(Duration::from_millis(200));
    assert!(!refused.is_empty());
    for refused in refused {
        assert!(
            matches!(refused, Refused::DeadlineExceeded { ahead, rate, .. } if ahead >= 10 && rate <= 500.0),
            "{refused:?}"
        );
    }
    assert_eq!(submitted(HOUR), []);
}

/// Otherwise it would be refused for ever.
#[test]
fn empty_queue_accepts_request_larger_than_the_queue() {
    let (gate, scheduler) = Gate::start(Limits { batch_tokens: 64, queued_tokens: 10, timeout: HOUR });
    let a = adapter();
    let running = scheduler.submit(vec![row(1, 40, &a)]).unwrap();
    gate.began();
    let waiting = scheduler.submit(vec![row(2, 40, &a)]).unwrap();
    assert!(matches!(scheduler.submit(vec![row(3, 1, &a)]), Err(Refused::Overloaded { queued: 40, .. })));
    gate.pass();
    gate.pass();
    assert_eq!(running.wait_blocking().unwrap(), vec![[1.0, 40.0]]);
    assert_eq!(waiting.wait_blocking().unwrap(), vec![[2.0, 40.0]]);
}

#[test]
fn panic_fails_only_its_batch() {
    let scheduler = Scheduler::start(ROOMY, |rows| match rows[0].text.ids[0] {
        13 => panic!("unlucky {}", rows.len()),
        _ => echo(rows),
    })
    .unwrap();
    let a = adapter();
    let failure = scheduler.submit(vec![row(13, 2, &a)]).unwrap().wait_blocking().unwrap_err();
    assert!(matches!(&failure, Failed::Panicked(text) if text == "unlucky 1"), "{failure:?}");
    assert_eq!(scheduler.submit(vec![row(7, 2, &a)]).unwrap().wait_blocking().unwrap(), [[7.0, 2.0]]);
}

#[test]
fn error_or_wrong_number_of_rows_fails_every_request_of_the_batch() {
    let a = adapter();
    let scheduler = Scheduler::start(ROOMY, |_| Err(candle_core::Error::Msg("out of luck".into()).into())).unwrap();
    let failure = scheduler.submit(vec![row(1, 2, &a)]).unwrap().wait_blocking().unwrap_err();
    assert!(matches!(&failure, Failed::Forward(error) if error.to_string().contains("out of luck")), "{failure:?}");

    let scheduler = Scheduler::start(ROOMY, |rows| Ok(echo(rows)?.split_off(1))).unwrap();
    let failure = scheduler.submit(vec![row(1, 2, &a), row(2, 2, &a)]).unwrap().wait_blocking().unwrap_err();
    assert!(matches!(failure, Failed::Rows { expected: 2, found: 1 }), "{failure:?}");
}

#[test]
fn rest_of_a_failed_request_does_not_run() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let forward = move |rows: &[Row]| {
        log.lock().unwrap().push(rows[0].text.ids[0]);
        match rows[0].text.ids[0] {
            1 => Err(candle_core::Error::Msg("no".into()).into()),
            _ => echo(rows),
        }
    };
    let scheduler = Scheduler::start(Limits { batch_tokens: 2, queued_tokens: 100, timeout: HOUR }, forward).unwrap();
    let a = adapter();
    let failing = scheduler.submit((1..5).map(|id| row(id, 2, &a)).collect::<Vec<_>>()).unwrap();
    let other = scheduler.submit(vec![row(9, 2, &a)]).unwrap();
    failing.wait_blocking().unwrap_err();
    other.wait_blocking().unwrap();
    assert_eq!(*seen.lock().unwrap(), [1, 9]);
}

#[test]
fn requests_of_disconnected_clients_leave_the_queue() {
    let (gate, scheduler) = Gate::start(Limits { batch_tokens: 100, queued_tokens: 10, timeout: HOUR });
    let a = adapter();
    let first = scheduler.submit(vec![row(1, 4, &a)]).unwrap();
    gate.began();
    let gone = scheduler.submit(vec![row(2, 8, &a)]).unwrap();
    scheduler.submit(vec![row(3, 8, &a)]).unwrap_err();
    drop(gone);
    let stays = scheduler.submit(vec![row(3, 8, &a)]).unwrap();
    gate.pass();
    assert_eq!(gate.began(), [3]);
    gate.pass();
    first.wait_blocking().unwrap();
    assert_eq!(stays.wait_blocking().unwrap(), [[3.0, 8.0]]);
}

#[test]
fn draining_answers_accepted_requests_and_refuses_others() {
    let (gate, scheduler) = Gate::start(Limits { batch_tokens: 4, queued_tokens: 100, timeout: HOUR });
    let a = adapter();
    let running = scheduler.submit(vec![row(1, 4, &a)]).unwrap();
    gate.began();
    let waiting = scheduler.submit(vec![row(2, 4, &a)]).unwrap();
    assert!(!scheduler.is_draining());
    scheduler.close();
    assert!(scheduler.is_draining());
    assert_eq!(scheduler.submit(vec![row(3, 4, &a)]).unwrap_err(), Refused::Draining);
    gate.pass();
    gate.pass();
    scheduler.drain();
    assert_eq!(running.wait_blocking().unwrap(), [[1.0, 4.0]]);
    assert_eq!(waiting.wait_blocking().unwrap(), [[2.0, 4.0]]);
}

#[test]
fn answered_request_holds_no_pins() {
    let scheduler = Scheduler::start(ROOMY, echo).unwrap();
    let a = adapter();
    for id in 0..200 {
        scheduler.submit(vec![row(id, 2, &a), row(id, 3, &a)]).unwrap().wait_blocking().unwrap();
        assert_eq!(Arc::strong_count(&a), 1);
    }
}

#[test]
fn request_without_rows_is_answered_at_once() {
    let (_gate, scheduler) = Gate::start(ROOMY);
    assert!(scheduler.submit(Vec::new()).unwrap().wait_blocking().unwrap().is_empty());
}

/// A request holds its pins, which keep its adapters in memory while it waits and runs. They are dropped when it is answered.
#[test]
fn request_pins_its_adapters_until_it_is_answered() {
    struct One;
    impl Source for One {
        fn load(&self, _: &Files) -> Result<Adapter, Error> {
            let mut adapter = Adapter::clone(&adapter());
            let head = Tensor::new(&[1.0f32, 2.0], &Device::Cpu)?;
            adapter.weights.head.insert("classifier.bias".into(), head);
            Ok(adapter)
        }

        fn layout(&self) -> &Layout {
            static LAYOUT: Layout = Layout {
                prefix: "bert",
                stack: "encoder.layer",
                layers: 0,
                modules: Vec::new(),
                other_linears: Vec::new(),
                tables: Vec::new(),
                head: Vec::new(),
                hidden: 2,
            };
            &LAYOUT
        }
    }
    let root = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        std::fs::create_dir(root.path().join(name)).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors", "config.json"] {
            std::fs::write(root.path().join(name).join(file), "{}").unwrap();
        }
    }
    // The registry has memory for one adapter.
    let registry = Registry::new(Arc::new(One), root.path(), 8).unwrap();
    let (gate, scheduler) = Gate::start(ROOMY);
    let pin = registry.get("a").unwrap();
    let rows = vec![row(7, 3, pin.adapter())];
    let answer = scheduler.submit(Request { rows, pins: vec![pin] }).unwrap();
    assert_eq!(gate.began(), [7]);
    assert!(matches!(registry.get("b"), Err(RegistryError::Busy { .. })), "the batch that runs holds it");
    gate.pass();
    answer.wait_blocking().unwrap();
    assert_eq!(registry.get("b").unwrap().name(), "b");
}
