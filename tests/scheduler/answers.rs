//! Each request is answered once, with its own logits, and holds its adapters until then.

use tempfile::TempDir;

use super::*;

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

/// A registry with the adapters `a` and `b`, and memory for one of them.
struct One(TempDir, Arc<Registry>);

impl One {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
            for file in ["adapter_config.json", "adapter_model.safetensors", "config.json"] {
                std::fs::write(root.path().join(name).join(file), "{}").unwrap();
            }
        }
        let registry = Arc::new(Registry::new(Arc::new(Two), root.path(), 8).unwrap());
        Self(root, registry)
    }
}

/// Adapters of two numbers each.
struct Two;

impl Source for Two {
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

/// A request holds its pins, which keep its adapters in memory while it waits and runs. They are dropped when it is answered.
#[test]
fn request_pins_its_adapters_until_it_is_answered() {
    let One(_root, registry) = One::new();
    let (scheduler, gate) = Gate::start(ROOMY);
    let pin = registry.get("a").unwrap();
    let rows = vec![row(7, 3, pin.adapter())];
    let answer = scheduler.submit(Request { rows, pins: vec![pin], deadline: None }).unwrap();
    assert_eq!(gate.began(), [7]);
    assert_eq!((scheduler.running(), scheduler.waiting()), (vec!["a".into()], vec![]));
    let pin = registry.get("a").unwrap();
    let second = scheduler.submit(Request { rows: vec![row(8, 3, pin.adapter())], pins: vec![pin], deadline: None });
    assert_eq!(scheduler.waiting(), [("a".into(), 1)]);
    assert_eq!(scheduler.admits("b", 1000 - 3, None), Ok(()));
    drop(second);
    assert!(matches!(registry.get("b"), Err(RegistryError::Busy { .. })), "the batch that runs holds it");
    gate.pass();
    answer.wait_blocking().unwrap();
    assert_eq!(registry.get("b").unwrap().name(), "b");
}

#[test]
fn failed_request_pins_its_adapters_while_one_of_its_rows_runs() {
    let One(_root, registry) = One::new();
    let (scheduler, gate) = Gate::start(Limits { batch_tokens: 3, queued_tokens: 10, ..ROOMY });
    let pin = registry.get("a").unwrap();
    let rows = vec![row(7, 3, pin.adapter()), row(8, 3, pin.adapter())];
    let deadline = Instant::now() + Duration::from_millis(500);
    let late = scheduler.submit(Request { rows, pins: vec![pin], deadline: Some(deadline) }).unwrap();
    assert_eq!(gate.began(), [7]);
    std::thread::sleep(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
    // There is room for it only without the one that is late.
    let other = scheduler.submit(vec![row(9, 9, &adapter())]).unwrap();
    assert!(matches!(late.wait_blocking(), Err(Failed::Expired(_))));
    assert!(matches!(registry.get("b"), Err(RegistryError::Busy { .. })), "the batch that runs holds it");
    gate.pass();
    assert_eq!(gate.began(), [9]);
    assert_eq!(registry.get("b").unwrap().name(), "b");
    gate.pass();
    other.wait_blocking().unwrap();
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
