//! Two passes that are begun at a time, as on a GPU.

use super::*;

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
    let stall_timeouts =
        StallTimeouts { least: Duration::from_millis(100), unknown: Duration::from_millis(100), grace: HOUR, times: 2 };
    let (scheduler, gpu) = Gpu::start(Limits { batch_tokens: 4, stall_timeouts, ..ROOMY }, |_| ());
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
