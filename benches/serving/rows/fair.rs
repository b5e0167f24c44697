//! One adapter that is asked ten times as often as all others together: what the others' requests feel. And one that is busy beside
//! one that is asked once a second: what the busy one loses.
//!
//! "Ten times" is measured twice. With clients: each other adapter has one client, who asks again as soon as it has its answer, and the
//! one has ten times as many clients. With rates: the others ask at a fixed rate far below the capacity, and the one at ten times that
//! rate, which is more than the capacity.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{ALL_IN_MEMORY, CONNECTIONS, Slices, all_questions, capacity, warm};
use crate::adapters;
use crate::common::Failure;
use crate::load::{self, Asking, Tally};
use crate::options::World;
use crate::server::Server;
use crate::table::Line;

const ADAPTERS: usize = 16;
const ROUNDS: usize = 3;
/// The others ask for this share of the capacity.
const SHARE: f64 = 0.15;
const TIMES: usize = 10;

/// Adapter 0 is the busy one; question `i` is asked of adapter `i % ADAPTERS`.
fn is_of_others(question: usize) -> bool {
    !question.is_multiple_of(ADAPTERS)
}

/// Chooses random questions, of the busy adapter with probability `busy`.
fn choose(questions: usize, busy: f64, seed: u64) -> impl FnMut() -> usize + 'static {
    let mut rng = StdRng::seed_from_u64(seed);
    move || {
        let of_busy = rng.random_range(0..questions / ADAPTERS) * ADAPTERS;
        if rng.random_bool(busy) { of_busy } else { of_busy + rng.random_range(1..ADAPTERS) }
    }
}

/// Chooses random questions of the busy adapter, and each second one of another adapter.
fn choose_rarely(questions: usize) -> impl FnMut() -> usize + 'static {
    let (mut busy, mut other, mut last) = (choose(questions, 1.0, 1), choose(questions, 0.0, 1), Instant::now());
    move || {
        let rare = last.elapsed() >= Duration::from_secs(1);
        if rare {
            last = Instant::now();
        }
        if rare { other() } else { busy() }
    }
}

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let folder = world.folder()?;
    let names = adapters::write_many(world, folder.path(), "adapter", ADAPTERS)?;
    let server = Server::start(&world.options, folder.path(), &ALL_IN_MEMORY)?;
    warm(&server, world, &names)?;
    let asking = Asking::in_turn(server.address, all_questions(world, &names));
    let count = asking.questions.len();
    let slice = Duration::from_secs(world.seconds(120)) / (9 * ROUNDS) as u32;

    let (others, busy) =
        (asking.clone().choosing(choose(count, 0.0, 1)), asking.clone().choosing(choose(count, 1.0, 2)));
    let clients = in_turn(|with, _| {
        let many = if with { TIMES * (ADAPTERS - 1) } else { 0 };
        load::closed_together(&[(&others, ADAPTERS - 1), (&busy, many)], slice)
    })?;
    let rate = SHARE * capacity(&asking, CONNECTIONS, slice)?.rate();
    let rates = in_turn(|with, seed| {
        let times = (TIMES + 1) as f64;
        let (busy, rate) = if with { (TIMES as f64 / times, rate * times) } else { (0.0, rate) };
        load::open(&asking.clone().choosing(choose(count, busy, seed)), rate, slice, seed)
    })?;
    let rarely = in_turn(|with, _| {
        let both = asking.clone().choosing(choose_rarely(count));
        load::closed(if with { &both } else { &busy }, CONNECTIONS, slice)
    })?;
    server.stop(&world.options.dumps)?;
    let beside = format!("the others ask {rate:.0} times a second, {:.0} % of the capacity", 100.0 * SHARE);
    Ok(vec![
        line("clients", &clients, &format!("{} and {} clients", ADAPTERS - 1, TIMES * (ADAPTERS - 1))),
        line("rates", &rates, &beside),
        busy_line(&rarely),
    ])
}

fn busy_line(Slices(slices): &Slices) -> Line {
    let [alone, both, control] = [0, 1, 2].map(|i| slices[i].rate());
    Line {
        what: "a busy adapter beside one that is asked once a second: texts a second against alone".into(),
        measured: format!("{:.1} %", 200.0 * both / (alone + control)),
        goal: "",
        met: None,
        beside: format!(
            "{both:.0} against {alone:.0}; control {:.1} %; the other's longest answer {:.0} ms of {}",
            100.0 * control / alone,
            slices[1].p99(is_of_others),
            slices[1].samples.iter().filter(|sample| is_of_others(sample.question)).count(),
        ),
    }
}

/// Slices without the busy adapter, with it, and without it again, which is the control.
fn in_turn(mut slice: impl FnMut(bool, u64) -> Result<Tally, Failure>) -> Result<Slices, Failure> {
    let mut slices = Slices::new(3);
    for round in 0..ROUNDS {
        for (kind, slices) in slices.0.iter_mut().enumerate() {
            slices.add(slice(kind == 1, (3 * round + kind) as u64)?);
        }
    }
    Ok(slices)
}

fn line(by: &str, Slices(slices): &Slices, beside: &str) -> Line {
    let p99: Vec<f64> = slices.iter().map(|tally| tally.p99(is_of_others)).collect();
    let rest: Vec<_> = slices[1].samples.iter().filter(|sample| is_of_others(sample.question)).collect();
    let refused = rest.iter().filter(|sample| sample.status != 200).count();
    let ratio = 2.0 * p99[1] / (p99[0] + p99[2]);
    Line {
        what: format!("one adapter sends {TIMES} times the rest ({by}): the others' p99 with against without it"),
        measured: format!("{ratio:.2} times"),
        goal: "1.5 (1.2)",
        met: Some(ratio <= 1.5 && refused == 0),
        beside: format!(
            "{:.1} against {:.1} ms; control {:.2}; {beside}; {refused} of their {} requests were refused; all: {}; asking took {:.0} % \
             of a core",
            p99[1],
            p99[0],
            p99[2] / p99[0],
            rest.len(),
            slices[1].statuses(),
            100.0 * slices[1].share(),
        ),
    }
}
