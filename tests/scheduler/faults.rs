//! A forward pass that panics, fails or stands still.

use super::*;

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

/// Every pass fails from then on, and only a new process can open the device again.
#[test]
fn lost_device_is_told_and_given_up() {
    let stall_timeouts = StallTimeouts { least: Duration::from_millis(100), ..ROOMY.stall_timeouts };
    let forward = |rows: &[Row]| match rows[0].text.ids[0] {
        1 => Err(candle_core::Error::Msg("no".into()).into()),
        2 => {
            let [source, first] = ["an illegal address", "a product"].map(|text| candle_core::Error::Msg(text.into()));
            Err(Error::DeviceLost { source, first: Box::new(first.into()) })
        }
        _ => echo(rows),
    };
    let scheduler = Scheduler::start(Limits { stall_timeouts, ..ROOMY }, forward, |_| ()).unwrap();
    let (given_up_sender, given_up) = channel();
    scheduler.on_stall(move || given_up_sender.send(()).unwrap());
    let fails = |id| scheduler.submit(vec![row(id, 2, &adapter())]).unwrap().wait_blocking().unwrap_err();
    fails(1);
    assert!(!scheduler.device_lost(), "any other failure is only that of its batch");
    assert!(given_up.recv_timeout(Duration::from_millis(300)).is_err());
    let failure = fails(2);
    let told = failure.to_string();
    assert!(told.contains("lost: an illegal address (after: tensor operation: a product)"), "{told}");
    assert!(scheduler.device_lost());
    given_up.recv().unwrap();
    assert!(given_up.recv_timeout(Duration::from_millis(300)).is_err(), "called once");
}

#[test]
fn stalled_forward_pass_is_told_and_given_up() {
    let second = Duration::from_secs(1);
    let stall_timeouts = StallTimeouts { least: second, unknown: second, grace: Duration::from_millis(100), times: 2 };
    let (scheduler, gate) = Gate::start(Limits { stall_timeouts, ..ROOMY });
    let (given_up_sender, given_up) = channel();
    scheduler.on_stall(move || given_up_sender.send(()).unwrap());
    let a = adapter();
    let first = scheduler.submit(vec![row(1, 2, &a)]).unwrap();
    gate.began();
    assert_eq!(scheduler.stalled(), None);
    given_up.recv().unwrap();
    assert!(scheduler.stalled().unwrap() >= stall_timeouts.least);
    gate.pass();
    first.wait_blocking().unwrap();
    while scheduler.stalled().is_some() {
        std::thread::yield_now();
    }
    assert!(given_up.try_recv().is_err(), "called once");
}
