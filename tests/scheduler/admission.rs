//! What the scheduler accepts, refuses and drops: the room of the queue, deadlines, and the shutdown.

use super::*;

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
    assert_eq!(scheduler.admits("", 3, None).unwrap_err(), refused);
    scheduler.admits("", 2, None).unwrap();
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
