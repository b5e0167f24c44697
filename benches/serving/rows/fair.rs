//! One adapter that is asked ten times as often as all others together: what the others' requests feel.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{ALL_IN_MEMORY, CONNECTIONS, Slices, all_questions, capacity, warm};
use crate::adapters;
use crate::common::Failure;
use crate::load::{self, Asking};
use crate::options::World;
use crate::server::Server;
use crate::table::Line;

const ADAPTERS: usize = 16;
const ROUNDS: usize = 3;
/// The others ask for this share of the capacity, so that the one asks for more than there is.
const OTHERS: f64 = 0.15;
const TIMES: f64 = 10.0;

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let folder = world.folder()?;
    let names = adapters::write_many(world, folder.path(), "adapter", ADAPTERS)?;
    let server = Server::start(
        &world.options,
        folder.path(),
        &[&ALL_IN_MEMORY[..], &["--max-queued-tokens", "16384"]].concat(),
    )?;
    warm(&server, world, &names)?;
    let asking = Asking::in_turn(server.address, all_questions(world, &names));
    let slice = Duration::from_secs(world.seconds(45)) / (3 * ROUNDS) as u32;
    let rate = OTHERS * capacity(&asking, CONNECTIONS, slice)?.rate();
    let count = asking.questions.len();
    // Question `i` is asked of adapter `i % ADAPTERS`; adapter 0 is the busy one.
    let of_others = |question: usize| !question.is_multiple_of(ADAPTERS);
    let with = move |busy: f64, seed: u64| {
        let mut rng = StdRng::seed_from_u64(seed);
        move || {
            let question = rng.random_range(0..count / ADAPTERS) * ADAPTERS;
            if rng.random_bool(busy) { question } else { question + rng.random_range(1..ADAPTERS) }
        }
    };
    let mut slices = Slices::new(3);
    for round in 0..ROUNDS {
        for (kind, slices) in slices.0.iter_mut().enumerate() {
            let (busy, rate) = if kind == 1 { (TIMES / (TIMES + 1.0), rate * (TIMES + 1.0)) } else { (0.0, rate) };
            let seed = (3 * round + kind) as u64;
            slices.add(load::open(&asking.clone().choosing(with(busy, seed)), rate, slice, seed)?);
        }
    }
    server.stop(&world.options.dumps)?;
    let p99: Vec<f64> = slices.0.iter().map(|tally| tally.p99(of_others)).collect();
    let of_rest = slices.0[1].samples.iter().filter(|sample| of_others(sample.question));
    let (rest, refused) =
        of_rest.fold((0, 0), |(all, refused), sample| (all + 1, refused + usize::from(sample.status != 200)));
    let ratio = 2.0 * p99[1] / (p99[0] + p99[2]);
    Ok(vec![Line {
        what: "one adapter sends 10 times the rest: the others' p99 with against without it".into(),
        measured: format!("{ratio:.2} times"),
        goal: "1.5 (1.2)",
        met: Some(ratio <= 1.5 && refused == 0),
        beside: format!(
            "{:.1} against {:.1} ms; control {:.2}; the others ask {rate:.0} times a second, {:.0} % of the capacity; {refused} of their \
             {rest} requests were refused; all: {}; asking took {:.0} % of a core",
            p99[1],
            p99[0],
            p99[2] / p99[0],
            100.0 * OTHERS,
            slices.0[1].statuses(),
            100.0 * slices.0[1].share(),
        ),
    }])
}
