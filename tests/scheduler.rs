//! The scheduler over fake forward passes: which requests it accepts, batches, answers and withdraws.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use polyrank::adapter::{Adapter, AdapterInfo, AdapterWeights, Files};
use polyrank::engine::{Error, Pending, Row};
use polyrank::params::{Backend, Layout};
use polyrank::registry::{Registry, RegistryError, Source};
use polyrank::scheduler::{BatchReport, Failed, Limits, Patience, Pipeline, Refused, Request, Scheduler, take};
use polyrank::text::Encoded;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const ROOMY: Limits = Limits {
    batch_tokens: 1000,
    queued_tokens: 1000,
    timeout: HOUR,
    patience: Patience { times: 20, least: HOUR, unknown: HOUR, grace: HOUR },
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
        let scheduler = Scheduler::start(Limits { batch_tokens, queued_tokens: 10_000, timeout: HOUR, ..ROOMY }, echo, |_| ()).unwrap();
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
            prop_assert_eq!(answer.wait_blocking().unwrap().logits, expected);
        }
    }
}

#[test]
fn waiting_requests_of_different_adapters_run_in_one_batch() {
    let (scheduler, gate) = Gate::start(ROOMY);
    let (a, b) = (adapter(), adapter());
    let first = scheduler.submit(vec![row(1, 3, &a)]).unwrap();
    assert_eq!(gate.began(), [1]);
    let second = scheduler.submit(vec![row(2, 3, &a), row(3, 3, &b)]).unwrap();
    let third = scheduler.submit(vec![row(4, 3, &a)]).unwrap();
    gate.pass();
    assert_eq!(gate.began(), [2, 3, 4], "one batch, in the order of the requests");
    gate.pass();
    assert_eq!(first.wait_blocking().unwrap().logits, [[1.0, 3.0]]);
    assert_eq!(second.wait_blocking().unwrap().logits, [[2.0, 3.0], [3.0, 3.0]]);
    assert_eq!(third.wait_blocking().unwrap().logits, [[4.0, 3.0]]);
}

#[test]
fn full_queue_refuses_at_once_until_there_is_room() {
    let (scheduler, gate) = Gate::start(Limits { batch_tokens: 4, queued_tokens: 10, timeout: HOUR, ..ROOMY });
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
        assert_eq!(answer.wait_blocking().unwrap().logits, expected);
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
        let scheduler =
            Scheduler::start(Limits { batch_tokens: 10, queued_tokens: 1000, timeout, ..ROOMY }, forward, |_| ())
                .unwrap();
        // The queue measures the speed, which is at most 500 tokens a second. The measurement of the first batch is in when the second
        // batch has run.
        for _ in 0..2 {
            scheduler.submit(vec![row(1, 10, &a)]).unwrap().wait_blocking().unwrap();
        }
        let (taken, refused): (Vec<_>, Vec<_>) =
            (0..30).map(|_| scheduler.submit(vec![row(2, 10, &a)])).partition(Result::is_ok);
        for answer in taken {
            assert_eq!(answer.unwrap().wait_blocking().unwrap().logits, [[2.0, 10.0]]);
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
    let (scheduler, gate) = Gate::start(Limits { batch_tokens: 64, queued_tokens: 10, timeout: HOUR, ..ROOMY });
    let a = adapter();
    let running = scheduler.submit(vec![row(1, 40, &a)]).unwrap();
    gate.began();
    let waiting = scheduler.submit(vec![row(2, 40, &a)]).unwrap();
    assert!(matches!(scheduler.submit(vec![row(3, 1, &a)]), Err(Refused::Overloaded { queued: 40, .. })));
    gate.pass();
    gate.pass();
    assert_eq!(running.wait_blocking().unwrap().logits, vec![[1.0, 40.0]]);
    assert_eq!(waiting.wait_blocking().unwrap().logits, vec![[2.0, 40.0]]);
}

#[test]
fn panic_fails_only_its_batch() {
    let scheduler = Scheduler::start(
        ROOMY,
        |rows| match rows[0].text.ids[0] {
            13 => panic!("unlucky {}", rows.len()),
            _ => echo(rows),
        },
        |_| (),
    )
    .unwrap();
    let a = adapter();
    let failure = scheduler.submit(vec![row(13, 2, &a)]).unwrap().wait_blocking().unwrap_err();
    assert!(matches!(&failure, Failed::Panicked(text) if text == "unlucky 1"), "{failure:?}");
    assert_eq!(scheduler.submit(vec![row(7, 2, &a)]).unwrap().wait_blocking().unwrap().logits, [[7.0, 2.0]]);
}

#[test]
fn error_or_wrong_number_of_rows_fails_every_request_of_the_batch() {
    let a = adapter();
    let scheduler =
        Scheduler::start(ROOMY, |_| Err(candle_core::Error::Msg("out of luck".into()).into()), |_| ()).unwrap();
    let failure = scheduler.submit(vec![row(1, 2, &a)]).unwrap().wait_blocking().unwrap_err();
    assert!(matches!(&failure, Failed::Forward(error) if error.to_string().contains("out of luck")), "{failure:?}");

    let scheduler = Scheduler::start(ROOMY, |rows| Ok(echo(rows)?.split_off(1)), |_| ()).unwrap();
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
    let scheduler =
        Scheduler::start(Limits { batch_tokens: 2, queued_tokens: 100, timeout: HOUR, ..ROOMY }, forward, |_| ())
            .unwrap();
    let a = adapter();
    let failing = scheduler.submit((1..5).map(|id| row(id, 2, &a)).collect::<Vec<_>>()).unwrap();
    let other = scheduler.submit(vec![row(9, 2, &a)]).unwrap();
    failing.wait_blocking().unwrap_err();
    other.wait_blocking().unwrap();
    assert_eq!(*seen.lock().unwrap(), [1, 9]);
}

#[test]
fn requests_of_disconnected_clients_leave_the_queue() {
    let (scheduler, gate) = Gate::start(Limits { batch_tokens: 100, queued_tokens: 10, timeout: HOUR, ..ROOMY });
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
    assert_eq!((scheduler.withdrawn(), scheduler.expired()), (1, 0));
    assert_eq!(stays.wait_blocking().unwrap().logits, [[3.0, 8.0]]);
}

#[test]
fn draining_answers_accepted_requests_and_refuses_others() {
    let (scheduler, gate) = Gate::start(Limits { batch_tokens: 4, queued_tokens: 100, timeout: HOUR, ..ROOMY });
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
    assert_eq!(running.wait_blocking().unwrap().logits, [[1.0, 4.0]]);
    assert_eq!(waiting.wait_blocking().unwrap().logits, [[2.0, 4.0]]);
}

#[test]
fn answered_request_holds_no_pins() {
    let scheduler = Scheduler::start(ROOMY, echo, |_| ()).unwrap();
    let a = adapter();
    for id in 0..200 {
        scheduler.submit(vec![row(id, 2, &a), row(id, 3, &a)]).unwrap().wait_blocking().unwrap();
        assert_eq!(Arc::strong_count(&a), 1);
    }
}

#[test]
fn request_without_rows_is_answered_at_once() {
    let (scheduler, _gate) = Gate::start(ROOMY);
    assert!(scheduler.submit(Vec::new()).unwrap().wait_blocking().unwrap().logits.is_empty());
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
    let (scheduler, gate) = Gate::start(ROOMY);
    let pin = registry.get("a").unwrap();
    let rows = vec![row(7, 3, pin.adapter())];
    let answer = scheduler.submit(Request { rows, pins: vec![pin], deadline: None }).unwrap();
    assert_eq!(gate.began(), [7]);
    assert_eq!((scheduler.running(), scheduler.waiting()), (vec!["a".into()], vec![]));
    let pin = registry.get("a").unwrap();
    let second = scheduler.submit(Request { rows: vec![row(8, 3, pin.adapter())], pins: vec![pin], deadline: None });
    assert_eq!(scheduler.waiting(), [("a".into(), 1)]);
    assert_eq!(scheduler.admits_for("b", 1000 - 3, None), Ok(()));
    drop(second);
    assert!(matches!(registry.get("b"), Err(RegistryError::Busy { .. })), "the batch that runs holds it");
    gate.pass();
    answer.wait_blocking().unwrap();
    assert_eq!(registry.get("b").unwrap().name(), "b");
}

/// The next batch after the one that runs has the newcomer, however many requests of the busy adapter wait.
#[test]
fn busy_adapter_does_not_delay_another() {
    let (scheduler, gate) = Gate::start(Limits { batch_tokens: 16_384, queued_tokens: 16_384, ..ROOMY });
    let (busy, other) = (adapter(), adapter());
    let mut answers = vec![scheduler.submit(vec![row(1, 50, &busy)]).unwrap()];
    gate.began();
    answers.extend((0..100).map(|_| scheduler.submit(vec![row(1, 50, &busy)]).unwrap()));
    answers.push(scheduler.submit(vec![row(2, 50, &other)]).unwrap());
    // At the speed that the queue measures, few tokens run in a batch's time.
    std::thread::sleep(Duration::from_millis(20));
    gate.pass();
    let batch = gate.began();
    assert!(batch.contains(&2) && batch.len() < 10, "{batch:?}");
}

#[test]
fn large_request_does_not_block_a_small_one_of_its_adapter() {
    let (scheduler, gate) = Gate::start(Limits { batch_tokens: 4096, queued_tokens: 16_384, ..ROOMY });
    let a = adapter();
    let _running = scheduler.submit(vec![row(0, 1, &a)]).unwrap();
    gate.began();
    let _large = scheduler.submit((1000..1200).map(|id| row(id, 20, &a)).collect::<Vec<_>>()).unwrap();
    let _small = scheduler.submit(vec![row(2, 20, &a)]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    gate.pass();
    let first = gate.began();
    gate.pass();
    let second = gate.began();
    assert!(first.contains(&1000) && !first.contains(&2) && second.contains(&2), "{first:?} {second:?}");
}

/// A text that several adapters are asked is never divided, whatever the limit of a batch.
#[test]
fn rows_of_one_text_run_in_one_batch() {
    let (scheduler, gate) = Gate::start(Limits { batch_tokens: 4, queued_tokens: 100, ..ROOMY });
    let adapters: Vec<_> = (0..6).map(|_| adapter()).collect();
    let rows: Vec<Row> = adapters.iter().map(|a| row(1, 4, a)).chain(adapters.iter().map(|a| row(2, 4, a))).collect();
    let answer = scheduler.submit(rows).unwrap();
    for id in [1, 2] {
        assert_eq!(gate.began(), [id; 6]);
        gate.pass();
    }
    let expected: Vec<_> = [[1.0, 4.0]; 6].into_iter().chain([[2.0, 4.0]; 6]).collect();
    assert_eq!(answer.wait_blocking().unwrap().logits, expected);
}

/// A busy adapter fills batches, except while another adapter that was just answered may be back.
#[test]
fn batch_is_small_while_another_adapter_may_be_back() {
    let (scheduler, gate) = Gate::start(Limits { queued_tokens: 10_000, ..ROOMY });
    let (busy, other) = (adapter(), adapter());
    let first = scheduler.submit(vec![row(1, 10, &busy)]).unwrap();
    gate.began();
    let many = scheduler.submit((0..500).map(|id| row(id, 10, &busy)).collect::<Vec<_>>()).unwrap();
    gate.pass();
    let full = gate.began();
    assert!(full.len() >= 13, "rounds until the batch has at least 128 tokens: {full:?}");
    let light = scheduler.submit(vec![row(1000, 10, &other)]).unwrap();
    gate.pass();
    let batch = gate.began();
    assert!(batch.contains(&1000) && batch.len() >= 13, "both wait: {batch:?}");
    gate.pass();
    light.wait_blocking().unwrap();
    let alone = gate.began();
    assert!(
        alone.len() <= 7,
        "one round of 64 tokens, of which the full batch before it may have taken a part: {alone:?}"
    );
    drop(gate);
    first.wait_blocking().unwrap();
    many.wait_blocking().unwrap();
}

#[test]
fn busy_adapter_leaves_room_in_the_queue_for_others() {
    let (scheduler, gate) = Gate::start(ROOMY);
    let (busy, other) = (adapter(), adapter());
    let mut answers = vec![scheduler.submit(vec![row(1, 10, &busy)]).unwrap()];
    gate.began();
    let refused = loop {
        match scheduler.submit(vec![row(1, 10, &busy)]) {
            Ok(answer) => answers.push(answer),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Refused::ShareExceeded { held: 800, tokens: 10, share: 800, .. }), "{refused:?}");
    for _ in 0..10 {
        answers.push(scheduler.submit(vec![row(2, 10, &other)]).unwrap());
    }
    scheduler.submit(vec![row(1, 10, &busy)]).unwrap_err();
}

#[test]
fn request_is_dropped_once_its_deadline_has_passed() {
    let (scheduler, gate) = Gate::start(ROOMY);
    let a = adapter();
    let running = scheduler.submit(vec![row(1, 2, &a)]).unwrap();
    gate.began();
    let due = |time| {
        let deadline = Some(Instant::now() + time);
        scheduler.submit(Request { rows: vec![row(2, 2, &a)], pins: Vec::new(), deadline }).unwrap()
    };
    let (late, in_time) = (due(Duration::from_millis(20)), due(HOUR));
    std::thread::sleep(Duration::from_millis(30));
    gate.pass();
    assert_eq!(gate.began(), [2], "the late one does not run");
    let failure = late.wait_blocking().unwrap_err();
    assert!(matches!(failure, Failed::Expired(waited) if waited >= Duration::from_millis(20)), "{failure:?}");
    gate.pass();
    running.wait_blocking().unwrap();
    in_time.wait_blocking().unwrap();
    assert_eq!((scheduler.expired(), scheduler.withdrawn()), (1, 0));
}

#[test]
fn request_that_cannot_meet_its_deadline_is_refused_at_once() {
    let (scheduler, gate) = Gate::start(ROOMY);
    let a = adapter();
    let first = scheduler.submit(vec![row(1, 10, &a)]).unwrap();
    gate.began();
    // 10 tokens in at least 50 ms.
    std::thread::sleep(Duration::from_millis(50));
    gate.pass();
    first.wait_blocking().unwrap();
    let _running = scheduler.submit(vec![row(1, 10, &a)]).unwrap();
    gate.began();
    let submit = |time| {
        let deadline = Some(Instant::now() + time);
        scheduler.submit(Request { rows: vec![row(2, 10, &a)], pins: Vec::new(), deadline })
    };
    assert!(matches!(submit(Duration::from_millis(20)).unwrap_err(), Refused::DeadlineExceeded { ahead: 10, .. }));
    let _accepted = submit(HOUR).unwrap();
}

#[test]
fn answer_and_report_tell_what_ran() {
    let (sender, reports) = channel();
    let forward = |rows: &[Row]| {
        std::thread::sleep(Duration::from_millis(20));
        echo(rows)
    };
    let limits = Limits { batch_tokens: 8, ..ROOMY };
    let report = move |report: &BatchReport| sender.send(*report).unwrap();
    let scheduler = Scheduler::start(limits, forward, report).unwrap();
    let (a, b) = (adapter(), adapter());
    // The first part takes a batch of its own.
    let answer = scheduler.submit(vec![row(1, 8, &a), row(2, 4, &a), row(2, 4, &b), row(3, 4, &b)]).unwrap();
    let second = scheduler.submit(Vec::new()).unwrap().wait_blocking().unwrap();
    assert_eq!((second.queued, second.computed), (Duration::ZERO, Duration::ZERO));
    let answered = answer.wait_blocking().unwrap();
    assert!(answered.computed >= Duration::from_millis(40), "{answered:?}");
    assert!(answered.queued < answered.computed, "{answered:?}");
    let reports: Vec<BatchReport> = reports.try_iter().collect();
    let told: Vec<_> = reports.iter().map(|r| (r.rows, r.tokens, r.adapters, r.requests)).collect();
    assert_eq!(told, [(1, 8, 1, 1), (3, 8, 2, 1)], "a shared text is counted once");
    assert!(reports.iter().all(|report| report.took >= Duration::from_millis(20)));
}

/// The worker panics outside the forward pass.
#[test]
fn worker_that_panics_fails_its_batch_and_is_replaced() {
    let (names_sender, names) = channel();
    let forward = move |rows: &[Row]| {
        names_sender.send(std::thread::current().name().map(str::to_owned)).unwrap();
        echo(rows)
    };
    let limits = Limits { batch_tokens: 2, ..ROOMY };
    let panics = |report: &BatchReport| assert_ne!(report.tokens, 13);
    let scheduler = Scheduler::start(limits, forward, panics).unwrap();
    let a = adapter();
    // The rest of the failed request, in the queue, does not run.
    let failing = scheduler.submit(vec![row(1, 13, &a), row(2, 13, &a)]).unwrap();
    let waiting = scheduler.submit(vec![row(3, 2, &a)]).unwrap();
    let failure = failing.wait_blocking().unwrap_err();
    assert!(matches!(failure, Failed::Lost), "{failure:?}");
    assert_eq!(waiting.wait_blocking().unwrap().logits, [[3.0, 2.0]]);
    assert_eq!(names.try_iter().flatten().collect::<Vec<_>>(), ["forward-1", "forward-2"]);
    assert_eq!(scheduler.running(), [] as [Arc<str>; 0]);
    scheduler.drain();
}

#[test]
fn stalled_forward_pass_is_told_and_given_up() {
    let patience = Patience {
        least: Duration::from_millis(100),
        unknown: Duration::from_millis(100),
        grace: Duration::from_millis(100),
        times: 2,
    };
    let (scheduler, gate) = Gate::start(Limits { patience, ..ROOMY });
    let (given_up_sender, given_up) = channel();
    scheduler.on_stall(move || given_up_sender.send(()).unwrap());
    let a = adapter();
    let first = scheduler.submit(vec![row(1, 2, &a)]).unwrap();
    gate.began();
    assert_eq!(scheduler.stalled(), None);
    given_up.recv().unwrap();
    assert!(scheduler.stalled().unwrap() >= patience.least);
    gate.pass();
    first.wait_blocking().unwrap();
    while scheduler.stalled().is_some() {
        std::thread::yield_now();
    }
    assert!(given_up.try_recv().is_err(), "called once");
}

/// A fake GPU. It reports the first token of each row of a batch that is begun, and each batch ends once the test lets it.
struct Gpu {
    began: Receiver<Vec<u32>>,
    leave: Sender<()>,
}

impl Gpu {
    /// The half of a pass that fails by its first token: 12 and 13 at the begin, 22 and 23 at the end, even ones by an error.
    fn fail(half: u32, rows: &[Row]) -> Result<(), Error> {
        match rows[0].text.ids[0] {
            id if id == 10 * half + 2 => Err(candle_core::Error::Msg(format!("error in half {half}")).into()),
            id if id == 10 * half + 3 => panic!("panic in half {half}"),
            _ => Ok(()),
        }
    }

    fn start(limits: Limits, on_batch: impl Fn(&BatchReport) + Send + 'static) -> (Scheduler, Self) {
        let (began_sender, began) = channel();
        let (leave, ends) = channel();
        let ends = Arc::new(Mutex::new(ends));
        let begin = move |rows: &[Row]| {
            let _ = began_sender.send(rows.iter().map(|row| row.text.ids[0]).collect());
            Self::fail(1, rows)?;
            let (rows, ends) = (rows.to_vec(), Arc::clone(&ends));
            Ok(Pending::new(move || {
                let _ = ends.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
                Self::fail(2, &rows)?;
                echo(&rows)
            }))
        };
        let pipeline = Pipeline { passes: 2, least: 0 };
        (Scheduler::pipelined(limits, pipeline, begin, on_batch).unwrap(), Self { began, leave })
    }

    fn began(&self) -> Vec<u32> {
        self.began.recv().unwrap()
    }

    /// Nothing begins for a while.
    fn rests(&self) {
        assert!(self.began.recv_timeout(Duration::from_millis(50)).is_err());
    }

    fn pass(&self) {
        self.leave.send(()).unwrap();
    }
}

#[test]
fn next_pass_begins_while_one_runs() {
    let (sender, reports) = channel();
    let report = move |report: &BatchReport| sender.send(*report).unwrap();
    let started = Instant::now();
    let (scheduler, gpu) = Gpu::start(Limits { batch_tokens: 4, ..ROOMY }, report);
    let a = adapter();
    let mut answers = VecDeque::new();
    for id in [1, 2] {
        answers.push_back(scheduler.submit(vec![row(id, 4, &a)]).unwrap());
        assert_eq!(gpu.began(), [id], "at once, although none has ended");
    }
    answers.extend([3, 4].map(|id| scheduler.submit(vec![row(id, 4, &a)]).unwrap()));
    gpu.rests();
    assert_eq!(scheduler.queued_tokens(), 8, "two passes at a time");
    for id in [1, 2] {
        std::thread::sleep(Duration::from_millis(20));
        gpu.pass();
        assert_eq!(answers.pop_front().unwrap().wait_blocking().unwrap().logits, [[id as f32, 4.0]]);
        assert_eq!(gpu.began(), [id + 2]);
    }
    gpu.pass();
    gpu.pass();
    for id in [3, 4] {
        assert_eq!(answers.pop_front().unwrap().wait_blocking().unwrap().logits, [[id as f32, 4.0]]);
    }
    scheduler.drain();
    let took: Vec<Duration> = reports.try_iter().map(|report| report.took).collect();
    assert!(took.iter().sum::<Duration>() <= started.elapsed(), "no time is counted twice: {took:?}");
    assert!(took[0] >= Duration::from_millis(70) && took[1] >= Duration::from_millis(20), "{took:?}");
    assert_eq!((took.len(), Arc::strong_count(&a)), (4, 1));
}

#[test]
fn passes_on_a_cpu_never_overlap() {
    let running = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&running);
    let begin = move |rows: &[Row]| {
        *counted.lock().unwrap() += 1;
        assert_eq!(*counted.lock().unwrap(), 1);
        let (counted, logits) = (Arc::clone(&counted), echo(rows)?);
        Ok(Pending::new(move || {
            std::thread::sleep(Duration::from_millis(2));
            *counted.lock().unwrap() -= 1;
            Ok(logits)
        }))
    };
    let pipeline = Pipeline::of(&Backend::cpu());
    assert_eq!((pipeline, Pipeline::of(&Backend::cuda_on_host()).passes), (Pipeline::ONE, 2));
    let scheduler = Scheduler::pipelined(Limits { batch_tokens: 4, ..ROOMY }, pipeline, begin, |_| ()).unwrap();
    let a = adapter();
    let answers: Vec<_> = (0..20).map(|id| scheduler.submit(vec![row(id, 4, &a)]).unwrap()).collect();
    for (id, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.wait_blocking().unwrap().logits, [[id as f32, 4.0]]);
    }
}

#[test]
fn either_half_of_a_pass_fails_only_its_batch() {
    let (scheduler, gpu) = Gpu::start(Limits { batch_tokens: 4, ..ROOMY }, |_| ());
    let a = adapter();
    let ids = [1, 12, 13, 22, 23, 2];
    let answers: Vec<_> = ids.map(|id| scheduler.submit(vec![row(id, 4, &a)]).unwrap()).into_iter().collect();
    for _ in ids {
        gpu.pass();
    }
    for (id, answer) in ids.into_iter().zip(answers) {
        let found = answer.wait_blocking();
        match (id, &found) {
            (1 | 2, Ok(answered)) => assert_eq!(answered.logits, [[id as f32, 4.0]]),
            (12 | 22, Err(Failed::Forward(error))) => assert!(error.to_string().contains(&format!("half {}", id / 10))),
            (13 | 23, Err(Failed::Panicked(text))) => assert_eq!(*text, format!("panic in half {}", id / 10)),
            _ => panic!("{id}: {found:?}"),
        }
    }
    assert_eq!(scheduler.running(), [] as [Arc<str>; 0]);
    scheduler.drain();
    assert_eq!(Arc::strong_count(&a), 1);
}

/// The thread that finishes passes panics outside of them. It must not keep the batch's place.
#[test]
fn panic_in_the_report_of_a_pass_fails_its_batch_alone() {
    let (scheduler, gpu) = Gpu::start(Limits { batch_tokens: 4, ..ROOMY }, |report| assert_ne!(report.rows, 2));
    let a = adapter();
    let waiting: Vec<_> = (0..6)
        .map(|id| {
            scheduler.submit(if id % 2 == 0 { vec![row(id, 4, &a)] } else { vec![row(id, 2, &a), row(9, 2, &a)] })
        })
        .collect();
    for (id, answer) in waiting.into_iter().enumerate() {
        gpu.pass();
        let found = answer.unwrap().wait_blocking();
        assert!(if id % 2 == 0 { found.is_ok() } else { matches!(found, Err(Failed::Lost)) }, "{id}: {found:?}");
    }
}

/// Requests that come meanwhile do not hide a pass that stands still.
#[test]
fn stalled_pass_is_told_while_another_begins() {
    let patience =
        Patience { least: Duration::from_millis(100), unknown: Duration::from_millis(100), grace: HOUR, times: 2 };
    let (scheduler, gpu) = Gpu::start(Limits { batch_tokens: 4, patience, ..ROOMY }, |_| ());
    let a = adapter();
    let first = scheduler.submit(vec![row(1, 4, &a)]).unwrap();
    gpu.began();
    let began = Instant::now();
    let mut others = Vec::new();
    while scheduler.stalled().is_none() {
        assert!(began.elapsed() < Duration::from_secs(20), "never told");
        if others.len() < 100 {
            others.push(scheduler.submit(vec![row(2, 4, &a)]).unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for _ in 0..=others.len() {
        gpu.pass();
    }
    first.wait_blocking().unwrap();
    for other in others {
        other.wait_blocking().unwrap();
    }
    // Nothing runs, so that nothing stands still.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(scheduler.stalled(), None);
}

/// Passes of a few tokens waste a GPU.
#[test]
fn batch_has_the_least_useful_size_even_if_another_adapter_may_be_back() {
    let (began_sender, began) = channel();
    let begin = move |rows: &[Row]| {
        began_sender.send(rows.len()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        Ok(Pending::ready(echo(rows)?))
    };
    let pipeline = Pipeline { passes: 2, least: 300 };
    let scheduler = Scheduler::pipelined(Limits { queued_tokens: 10_000, ..ROOMY }, pipeline, begin, |_| ()).unwrap();
    let (busy, other) = (adapter(), adapter());
    scheduler.submit(vec![row(0, 10, &other)]).unwrap().wait_blocking().unwrap();
    let many = scheduler.submit((1..200).map(|id| row(id, 10, &busy)).collect::<Vec<_>>()).unwrap();
    many.wait_blocking().unwrap();
    let sizes: Vec<usize> = began.try_iter().collect();
    assert!(sizes.len() > 2 && sizes[1..sizes.len() - 1].iter().all(|&rows| rows >= 30), "{sizes:?}");
}
