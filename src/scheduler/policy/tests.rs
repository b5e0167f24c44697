//! Tests the bounds that the module's documentation states.

use proptest::collection::vec;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// The largest cost of a part in these tests.
const LARGEST: usize = 60;

/// A part is named by its flow, its request and its place in the request.
type Name = (usize, usize, usize);

fn push(queue: &mut FairQueue<usize, usize, (Name, usize)>, flow: usize, request: usize, costs: &[usize]) {
    let part = |(i, &cost): (usize, &usize)| Part { cost, work: ((flow, request, i), cost) };
    queue.push(flow, request, costs.iter().enumerate().map(part));
}

fn tokens(batch: &[(Name, usize)]) -> usize {
    batch.iter().map(|(_, cost)| cost).sum()
}

/// Texts that are longer than what a visit grants, so that most rounds send nothing.
#[test]
fn crowded_flow_gets_half_of_what_others_get_of_long_texts() {
    for cost in [100, 200, 256] {
        let mut queue = FairQueue::new(QUANTUM, TURN);
        push(&mut queue, 0, 0, &vec![cost; 2000]);
        let mut sent = [0usize; 2];
        for request in 1..=500 {
            while queue.held(&1) < cost + 1 {
                push(&mut queue, 1, request, &[cost]);
            }
            for ((flow, ..), cost) in queue.take(Budget { most: 4096, target: 1 }) {
                sent[flow] += cost;
            }
        }
        let times = sent[1] as f64 / sent[0] as f64;
        assert!((1.8..2.4).contains(&times), "{cost}: {sent:?}");
    }
}

#[test]
fn large_request_does_not_block_small_ones_of_its_flow() {
    let mut queue = FairQueue::new(10, 10);
    push(&mut queue, 0, 0, &[5; 100]);
    push(&mut queue, 0, 1, &[5]);
    push(&mut queue, 0, 2, &[5, 5, 5]);
    let batch = queue.take(Budget { most: 1000, target: 40 });
    let requests: Vec<usize> = batch.iter().map(|((_, request, _), _)| *request).collect();
    assert_eq!(requests, [0, 0, 1, 2, 2, 0, 0, 2]);
}

#[test]
fn long_queue_of_one_flow_does_not_lengthen_batches() {
    let mut queue = FairQueue::new(10, 10);
    push(&mut queue, 0, 0, &[5; 1000]);
    push(&mut queue, 1, 1, &[5]);
    assert_eq!(
        tokens(&queue.take(Budget { most: 1000, target: 0 })),
        25,
        "one round, of twice the quantum for a new flow"
    );
    assert_eq!(tokens(&queue.take(Budget { most: 1000, target: 25 })), 30, "the rounds that reach the target");
    assert_eq!(tokens(&queue.take(Budget { most: 20, target: 1000 })), 20, "the maximum");
    push(&mut queue, 1, 2, &[5]);
    assert_eq!(queue.tokens(), 5000 - 70 + 5);
    assert_eq!(queue.take_unless(|&request| request != 0).len(), 1);
    assert_eq!((queue.tokens(), queue.held(&0), queue.held(&1)), (5, 0, 5));
    assert_eq!(queue.take(Budget { most: 20, target: 1000 }), [((1, 2, 0), 5)]);
    assert!(queue.take(Budget { most: 20, target: 1000 }).is_empty());
}

/// The flows of a batch's parts.
fn flows_of(batch: &[(Name, usize)]) -> Vec<usize> {
    batch.iter().map(|((flow, ..), _)| *flow).collect()
}

#[test]
fn crowded_flow_runs_in_batches_of_its_own() {
    let mut queue = FairQueue::new(10, 10);
    let round = Budget { most: 1000, target: 0 };
    push(&mut queue, 0, 0, &[5; 1000]);
    push(&mut queue, 1, 1, &[5; 20]);
    assert_eq!(flows_of(&queue.take(round)), [0, 0, 0, 0, 1, 1, 1, 1], "at first, neither is crowded");
    for _ in 0..3 {
        assert_eq!(flows_of(&queue.take(round)), [1, 1, 1, 1]);
        assert_eq!(flows_of(&queue.take(round)), [0, 0], "the second part of the round");
    }
    push(&mut queue, 1, 2, &[5]);
    assert_eq!(flows_of(&queue.take(round)), [1, 1, 1, 1]);
    push(&mut queue, 2, 3, &[5]);
    assert_eq!(flows_of(&queue.take(round)), [0, 0, 2], "what came in between belongs to the round");
    assert_eq!(flows_of(&queue.take(round)), [1]);
    assert_eq!(flows_of(&queue.take(round)), [0, 0]);
    assert_eq!(flows_of(&queue.take(round)), [0, 0], "nobody else has work");
    // If nobody else can send, the crowded flow can.
    push(&mut queue, 2, 4, &[35, 5]);
    assert_eq!(flows_of(&queue.take(round)), [0, 0]);
    assert_eq!(flows_of(&queue.take(round)), [2, 2]);
    // A batch that takes more rounds is not shorter.
    queue.take(round);
    push(&mut queue, 1, 5, &[5]);
    assert_eq!(flows_of(&queue.take(Budget { most: 1000, target: 10 })), [1, 0, 0]);
}

/// The 99th percentile of the time from a request to its answer, of 15 adapters with one client each, beside an adapter with
/// `busy` clients. Each client sends its next text when it has an answer. A batch takes the time of its tokens and of 20 more.
fn others_p99(busy: usize) -> usize {
    const OTHERS: usize = 15;
    let mut queue = FairQueue::new(QUANTUM, TURN);
    let (mut time, mut sent, mut seed) = (0, Vec::new(), 1u64);
    let mut send = |queue: &mut FairQueue<_, _, _>, sent: &mut Vec<usize>, flow: usize, time: usize| {
        // Knuth's generator: lengths of 8 to 60 tokens.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        push(queue, flow, sent.len(), &[8 + (seed >> 33) as usize % 53]);
        sent.push(time);
    };
    for flow in (0..OTHERS).chain(std::iter::repeat_n(OTHERS, busy)) {
        send(&mut queue, &mut sent, flow, 0);
    }
    let mut waits = Vec::new();
    for _ in 0..2000 {
        let batch = queue.take(Budget { most: 16_384, target: 300 });
        time += 20 + tokens(&batch);
        for ((flow, request, _), _) in batch {
            if flow < OTHERS {
                waits.push(time - sent[request]);
            }
            send(&mut queue, &mut sent, flow, time);
        }
    }
    waits.sort_unstable();
    waits[waits.len() * 99 / 100]
}

/// The 99th percentile of the time from a request to its answer, of 15 adapters that are asked at random times and take 15 % of the
/// machine's time, beside an adapter that always has work or never. A batch takes the time of its tokens and of 20 more.
fn others_p99_at_a_rate(busy: bool) -> usize {
    const OTHERS: usize = 15;
    let mut queue = FairQueue::new(QUANTUM, TURN);
    let mut rng = StdRng::seed_from_u64(7);
    let (mut time, mut next, mut sent, mut waits) = (0, 0, Vec::new(), Vec::new());
    if busy {
        push(&mut queue, OTHERS, usize::MAX, &[24; 200_000]);
    }
    while waits.len() < 5000 {
        if queue.tokens() == 0 {
            time = time.max(next);
        }
        while next <= time {
            push(&mut queue, rng.random_range(0..OTHERS), sent.len(), &[rng.random_range(8..60)]);
            sent.push(next);
            next += rng.random_range(0..720);
        }
        let batch = queue.take(Budget { most: 16_384, target: 0 });
        time += 20 + tokens(&batch);
        waits.extend(
            batch.iter().filter(|((flow, ..), _)| *flow < OTHERS).map(|((_, request, _), _)| time - sent[*request]),
        );
    }
    waits.sort_unstable();
    waits[waits.len() * 99 / 100]
}

/// Requests of other adapters hardly wait for an adapter that is asked more than the machine can do.
#[test]
fn adapter_that_always_has_work_hardly_delays_rare_requests() {
    let (alone, beside) = (others_p99_at_a_rate(false), others_p99_at_a_rate(true));
    assert!(10 * beside <= 15 * alone, "{alone} alone, {beside} beside the busy adapter");
}

/// An adapter that is asked ten times as much as all others together hardly delays their answers.
#[test]
fn ten_times_the_traffic_of_one_adapter_hardly_delays_the_others() {
    let (alone, beside) = (others_p99(0), others_p99(150));
    assert!(10 * beside <= 12 * alone, "{alone} alone, {beside} beside the busy adapter");
}

#[test]
fn part_far_larger_than_the_quantum_is_sent_at_once_when_alone() {
    let mut queue = FairQueue::new(1, 1);
    push(&mut queue, 0, 0, &[usize::MAX / 4]);
    push(&mut queue, 1, 1, &[usize::MAX / 4]);
    assert_eq!(queue.take(Budget { most: 10, target: 0 }).len(), 1);
    assert_eq!(queue.take(Budget { most: 10, target: 0 }).len(), 1);
}

#[test]
fn estimate_counts_what_runs_before() {
    let mut queue = FairQueue::new(10, 10);
    push(&mut queue, 0, 0, &[5; 100]);
    push(&mut queue, 1, 1, &[3]);
    // A newcomer needs one visit, in which flow 0 sends 20 tokens and flow 1 all that it has.
    assert_eq!(queue.ahead(&2, 20), 23);
    assert_eq!(queue.ahead(&2, 21), 43);
    assert_eq!(queue.ahead(&1, 17), 3 + 20);
    assert_eq!(queue.ahead(&0, 1), 500 + 3);
}

prop_compose! {
    /// Requests as (flow, costs of the parts), a quantum and a budget.
    fn world()(
        requests in vec((0usize..6, vec(1..=LARGEST, 1..12)), 1..40),
        quantum in 1usize..100,
        most in 1usize..300,
        target in 0usize..300,
    ) -> (Vec<(usize, Vec<usize>)>, usize, Budget) {
        (requests, quantum, Budget { most, target })
    }
}

proptest! {
    /// Each part is sent once, the parts of a request in order, in batches within the budget.
    #[test]
    fn every_part_is_sent_once_within_the_budget((requests, quantum, budget) in world()) {
        let mut queue = FairQueue::new(quantum, quantum);
        for (id, (flow, costs)) in requests.iter().enumerate() {
            push(&mut queue, *flow, id, costs);
        }
        let mut left: usize = requests.iter().flat_map(|(_, costs)| costs).sum();
        let mut next = vec![0; requests.len()];
        while left > 0 {
            prop_assert_eq!(queue.tokens(), left);
            let flows = queue.turns.len();
            let batch = queue.take(budget);
            let sent = tokens(&batch);
            prop_assert!(!batch.is_empty());
            prop_assert!(sent <= budget.most || batch.len() == 1);
            // One round, or the rounds before the last are below the target.
            prop_assert!(sent <= budget.target + flows * (2 * quantum + LARGEST), "{} of {:?}", sent, budget);
            for ((flow, request, part), cost) in batch {
                prop_assert_eq!((flow, part), (requests[request].0, next[request]));
                prop_assert_eq!(cost, requests[request].1[part]);
                next[request] += 1;
            }
            left -= sent;
        }
        prop_assert!(queue.take(budget).is_empty());
        prop_assert!(queue.flows.is_empty() && queue.turns.is_empty());
    }

    /// Crowded flows have sent the same, up to `2 Q + 3 m` tokens, after any number of batches.
    #[test]
    fn busy_flows_get_equal_shares(
        costs in vec(1..=LARGEST, 2..6), quantum in 1usize..100, most in 1usize..300, target in 0usize..300,
        batches in 1usize..40,
    ) {
        let mut queue = FairQueue::new(quantum, quantum);
        for (flow, &cost) in costs.iter().enumerate() {
            push(&mut queue, flow, flow, &vec![cost; 40 * (300 + 6 * (100 + LARGEST)) / cost]);
        }
        let mut sent = vec![0usize; costs.len()];
        for _ in 0..batches {
            for ((flow, ..), cost) in queue.take(Budget { most, target }) {
                sent[flow] += cost;
            }
        }
        let (least, greatest) = (sent.iter().min().copied(), sent.iter().max().copied());
        prop_assert!(greatest <= least.map(|least| least + 2 * quantum + 3 * LARGEST), "{:?}", sent);
    }

    /// A flow that always has work but is not crowded sends at most twice as much as a crowded one, up to `2 Q + 3 m` tokens.
    #[test]
    fn crowded_flow_gets_half_of_what_others_get(
        crowded in 1..=LARGEST, other in vec(1usize..=10, 8), quantum in 30usize..100, batches in 10usize..60,
        target in 0usize..60,
    ) {
        let mut queue = FairQueue::new(quantum, quantum);
        push(&mut queue, 0, 0, &vec![crowded; 100_000 / crowded]);
        let mut sent = [0usize; 2];
        for request in 1..=batches {
            while queue.held(&1) < 5 * quantum {
                push(&mut queue, 1, request, &other);
            }
            for ((flow, ..), cost) in queue.take(Budget { most: 1000, target }) {
                sent[flow] += cost;
            }
        }
        let (least, greatest) = (sent[0].min(sent[1]), sent[0].max(sent[1]));
        prop_assert!(greatest <= 2 * least + 2 * quantum + 3 * LARGEST, "{:?}", sent);
    }

    /// A newcomer of `t` tokens waits for at most `(F - 1) (2 ceil(t / Q) Q + 2 m)` tokens of the others, although they always have work.
    #[test]
    fn newcomer_does_not_wait_for_the_crowd(
        costs in vec(1..=LARGEST, 1..6), newcomer in vec(1..=LARGEST, 1..8), quantum in 1usize..100,
        most in 1usize..300, target in 0usize..300, batches in 0usize..20,
    ) {
        let mut queue = FairQueue::new(quantum, quantum);
        for (flow, &cost) in costs.iter().enumerate() {
            push(&mut queue, flow, flow, &vec![cost; 20_000 / cost]);
        }
        for _ in 0..batches {
            queue.take(Budget { most, target });
        }
        let (name, total) = (costs.len(), newcomer.iter().sum::<usize>());
        push(&mut queue, name, name, &newcomer);
        let (mut before, mut missing) = (0, newcomer.len());
        while missing > 0 {
            for ((flow, ..), cost) in queue.take(Budget { most, target }) {
                if flow == name {
                    missing -= 1;
                } else if missing > 0 {
                    before += cost;
                }
            }
        }
        let bound = costs.len() * (2 * total.div_ceil(quantum) * quantum + 2 * LARGEST);
        prop_assert!(before <= bound, "{} tokens came first, more than {}", before, bound);
    }
}
