//! The rows of the table.

pub(crate) mod cold;
pub(crate) mod fair;
pub(crate) mod http;
pub(crate) mod many;
pub(crate) mod memory;
pub(crate) mod notice;
pub(crate) mod overload;
pub(crate) mod shared;
pub(crate) mod start;
pub(crate) mod swap;

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::client::{Connection, Reply};
use crate::common::Failure;
use crate::load::{self, Asking, Tally};
use crate::offline::question;
use crate::options::World;
use crate::server::Server;
use crate::statistics::Zipf;

/// Connections of the rows that measure throughput.
const CONNECTIONS: usize = 64;

/// Questions of the rows of many adapters. Few of them are in one batch twice.
const POPULAR: usize = 8192;

/// Enough memory for all adapters of a row.
const ALL_IN_MEMORY: [&str; 2] = ["--adapter-memory", "8GiB"];

/// Each text asked of one adapter, in turn, as `polyrank bench` asks them.
fn questions(world: &World, names: &[String]) -> Rc<Vec<Vec<u8>>> {
    let texts = world.texts.iter().zip(names.iter().cycle());
    Rc::new(texts.map(|(text, name)| question(name, &[text])).collect())
}

/// Each text asked of each adapter; question `i` is asked of adapter `i % names.len()`.
fn all_questions(world: &World, names: &[String]) -> Rc<Vec<Vec<u8>>> {
    let of_text = |text: &String| names.iter().map(|name| question(name, &[text])).collect::<Vec<_>>();
    Rc::new(world.texts.iter().flat_map(of_text).collect())
}

/// The adapters of [`POPULAR`] questions, chosen by Zipf's law. Question `i` has text `i`, modulo the number of texts.
fn by_popularity(count: usize) -> Vec<usize> {
    let (zipf, mut rng) = (Zipf::new(count), StdRng::seed_from_u64(3));
    (0..POPULAR).map(|_| zipf.choose(&mut rng)).collect()
}

/// The questions whose adapters [`by_popularity`] chose.
fn popular_questions(world: &World, names: &[String], chosen: &[usize]) -> Rc<Vec<Vec<u8>>> {
    let texts = world.texts.iter().cycle().zip(chosen);
    Rc::new(texts.map(|(text, &adapter)| question(&names[adapter], &[text])).collect())
}

/// Asks each adapter once, so that it is in memory and its pages are warm.
fn warm(server: &Server, world: &World, names: &[String]) -> Result<(), Failure> {
    load::block_on(async {
        let mut connection = Connection::open(server.address).await?;
        for name in names {
            let reply = connection.ask(&question(name, &[&world.texts[0]])).await?;
            expect_ok(&reply, name)?;
        }
        Ok(())
    })
}

fn expect_ok(reply: &Reply, name: &str) -> Result<(), Failure> {
    match reply.status {
        200 => Ok(()),
        status => Err(format!("{name}: {status} {}", String::from_utf8_lossy(&reply.body)).into()),
    }
}

/// Texts a second that `connections` connections get answered.
fn capacity(asking: &Asking, connections: usize, time: Duration) -> Result<Tally, Failure> {
    load::closed(asking, connections, time / 4)?;
    load::closed(asking, connections, time)
}

/// Sums of slices by kind.
#[derive(Default)]
struct Slices(Vec<Tally>);

impl Slices {
    fn new(kinds: usize) -> Self {
        Self((0..kinds).map(|_| Tally::default()).collect())
    }
}

/// `folder` as an argument.
fn argument(folder: &Path) -> Result<&str, Failure> {
    folder.to_str().ok_or_else(|| format!("{}: the path is not UTF-8", folder.display()).into())
}
