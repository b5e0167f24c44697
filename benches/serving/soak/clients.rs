//! Clients that ask all the time, more than the server can answer, and check every reply.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::{GRACE, Soak, question};
use crate::client::{Connection, Reply};
use crate::common::Failure;
use crate::load;
use crate::versions::{Installed, Versions};

const CLIENTS: usize = 160;
/// The largest number of texts in a request.
const TEXTS: usize = 4;
const LONGEST: Duration = Duration::from_secs(40);

pub(super) fn ask(soak: &Arc<Soak>, texts: &[String]) -> Result<(), Failure> {
    load::block_on(async {
        let mut clients = JoinSet::new();
        for id in 0..CLIENTS {
            clients.spawn_local(client(Arc::clone(soak), texts.to_vec(), id));
        }
        clients.join_all().await;
        Ok(())
    })
}

async fn client(soak: Arc<Soak>, texts: Vec<String>, id: usize) {
    let mut rng = StdRng::seed_from_u64(id as u64);
    let mut kept = None;
    for number in 0.. {
        if soak.stopped() {
            return;
        }
        let adapter = &soak.adapters[rng.random_range(0..soak.adapters.len())];
        let indices: Vec<usize> = (0..rng.random_range(1..=TEXTS)).map(|_| rng.random_range(0..texts.len())).collect();
        let request_id = format!("client-{id}-{number}");
        let asked = with_header(question(&adapter.name, &texts, &indices), &format!("x-request-id: {request_id}"));
        let begun = Instant::now();
        match tokio::time::timeout(LONGEST, exchange(&soak, kept.take(), &asked)).await {
            Ok(Ok((reply, connection))) => {
                let outcome = verdict(adapter, &indices, &request_id, &reply, (begun, Instant::now()));
                let more = connection.has_more();
                note(&soak, outcome, &reply, more);
                // Refused clients wait for a moment, as they are told to.
                if reply.status != 200 {
                    tokio::time::sleep(Duration::from_millis(rng.random_range(5..40))).await;
                }
                kept = Some(connection);
            }
            // A killed server answers nothing.
            _ if soak.was_down(begun) => {
                soak.count("no answer, because the server was killed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(Err(error)) => soak.fail(format!("{request_id} to {}: no answer: {error}", adapter.name)),
            Err(_) => soak.fail(format!("{request_id} to {}: no answer within {LONGEST:?}", adapter.name)),
        }
    }
}

async fn exchange(soak: &Soak, kept: Option<Connection>, asked: &[u8]) -> std::io::Result<(Reply, Connection)> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => Connection::open(soak.address).await?,
    };
    let reply = connection.ask(asked).await?;
    Ok((reply, connection))
}

/// Adds a header to a request.
fn with_header(request: Vec<u8>, header: &str) -> Vec<u8> {
    let end = request.windows(2).position(|bytes| bytes == b"\r\n").unwrap_or(0);
    [&request[..end], b"\r\n", header.as_bytes(), &request[end..]].concat()
}

fn note(soak: &Soak, outcome: Result<String, String>, reply: &Reply, more: bool) {
    if reply.status != 0 {
        soak.seen().answered = Instant::now();
    }
    if more {
        soak.fail("bytes after the reply");
    }
    match outcome {
        Ok(what) => soak.count(what),
        Err(what) => soak.fail(what),
    }
}

/// What a reply counts as, or what is wrong with it.
fn verdict(
    adapter: &Versions,
    texts: &[usize],
    request_id: &str,
    reply: &Reply,
    during: (Instant, Instant),
) -> Result<String, String> {
    let found = reply.header("x-request-id").unwrap_or(request_id);
    if found != request_id {
        return Err(format!("{request_id} got the reply of {found}"));
    }
    let error_type = reply.error_type().unwrap_or_default();
    let current = adapter.current(during, GRACE);
    let gone = current.contains(&Installed::Gone);
    let unsettled = gone || current.contains(&Installed::Broken);
    let again = reply.header("retry-after").is_some();
    match reply.status {
        200 => {
            let body = reply.json().map_err(|error| format!("{request_id}: {error}"))?;
            adapter.check(&body, texts, reply.header("x-adapter-generation"), during, GRACE)?;
            Ok("answered".into())
        }
        429 if again => Ok("refused".into()),
        503 if again && error_type != "TimedOut" => Ok(format!("503 {error_type}")),
        404 if gone => Ok("404 while it was gone".into()),
        422 if unsettled => Ok("422 while it was broken".into()),
        status => {
            let (name, body) = (&adapter.name, String::from_utf8_lossy(&reply.body));
            Err(format!("{name}: {status} while {current:?} was current: {body}"))
        }
    }
}
