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

use crate::client::{Connection, Reply};
use crate::common::Failure;
use crate::load::{self, Asking, Tally};
use crate::offline::question;
use crate::options::World;
use crate::server::Server;

/// Connections of the rows that measure throughput.
const CONNECTIONS: usize = 64;

/// Enough memory for all adapters of a row.
const ALL_IN_MEMORY: [&str; 2] = ["--adapter-memory", "8GiB"];

/// Questions of one text each: text `i` to adapter `i`, over and over.
fn questions(world: &World, names: &[String]) -> Rc<Vec<Vec<u8>>> {
    let count = world.texts.len().max(names.len());
    let texts = world.texts.iter().cycle().zip(names.iter().cycle()).take(count);
    Rc::new(texts.map(|(text, name)| question(name, &[text])).collect())
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
