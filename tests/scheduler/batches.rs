//! Which texts run together, and in which order.

use super::*;

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
fn batch_is_small_while_another_adapter_is_asked_often() {
    let (scheduler, gate) = Gate::start(Limits { queued_tokens: 1_000_000, ..ROOMY });
    let (busy, other) = (adapter(), adapter());
    let first = scheduler.submit(vec![row(1, 10, &busy)]).unwrap();
    gate.began();
    let many = scheduler.submit((0..9000).map(|id| row(id, 10, &busy)).collect::<Vec<_>>()).unwrap();
    gate.pass();
    let full = gate.began();
    assert!(full.len() >= 13, "rounds until the batch has at least 128 tokens: {full:?}");
    let light = scheduler.submit(vec![row(9000, 10, &other)]).unwrap();
    gate.pass();
    let batch = gate.began();
    assert!(batch.contains(&9000) && batch.len() >= 13, "both wait: {batch:?}");
    gate.pass();
    light.wait_blocking().unwrap();
    let alone = gate.began();
    assert!(alone.len() >= 13, "one request a second is no reason for small batches: {alone:?}");
    // So many that the time between two of them is that of a few tokens.
    let often: Vec<_> = (0..20_000).map(|id| scheduler.submit(vec![row(10_000 + id, 1, &other)]).unwrap()).collect();
    let mut left = often.len();
    while left > 0 {
        gate.pass();
        left -= gate.began().iter().filter(|&&id| id >= 10_000).count();
    }
    gate.pass();
    for light in often {
        light.wait_blocking().unwrap();
    }
    let alone = gate.began();
    assert!(
        alone.len() <= 7,
        "one round of 64 tokens, of which the full batch before it may have taken a part: {alone:?}"
    );
    drop(gate);
    first.wait_blocking().unwrap();
    many.wait_blocking().unwrap();
}
