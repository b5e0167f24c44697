//! Clients that hang up, that write slowly, and that never read.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Soak, question};
use crate::common::Failure;

/// All texts, so that the requests are large.
fn large(soak: &Soak, texts: &[String], rng: &mut StdRng) -> Vec<u8> {
    let adapter = &soak.adapters[rng.random_range(0..soak.adapters.len())];
    question(&adapter.name, texts, &(0..texts.len()).collect::<Vec<_>>())
}

/// Sends a request, or a part of one, and leaves.
pub(super) fn hang_up(soak: &Soak, texts: &[String]) -> Result<(), Failure> {
    let mut rng = StdRng::seed_from_u64(11);
    while soak.sleep(Duration::from_millis(60)) {
        let Ok(mut stream) = TcpStream::connect(soak.address) else { continue };
        let request = large(soak, texts, &mut rng);
        let part = if rng.random_bool(0.5) { request.len() } else { rng.random_range(0..request.len()) };
        let _ = stream.write_all(&request[..part]);
        if rng.random_bool(0.5) {
            soak.sleep(Duration::from_millis(rng.random_range(0..30)));
        }
        soak.count("hung up");
    }
    Ok(())
}

/// Sends a body in pieces over some seconds. The request is answered all the same.
pub(super) fn write_slowly(soak: &Soak, texts: &[String]) -> Result<(), Failure> {
    let mut rng = StdRng::seed_from_u64(12);
    while soak.sleep(Duration::from_millis(100)) {
        let begun = Instant::now();
        let request = large(soak, texts, &mut rng);
        let status = slowly(soak, &request);
        match status {
            _ if soak.was_down(begun) || soak.stopped() => {}
            // 404 and 422 are for adapters that are gone or broken just then; the other clients check when.
            Ok(200 | 404 | 422 | 429 | 503) => soak.count("wrote slowly, and was answered"),
            other => soak.fail(format!("a request written slowly: {other:?}")),
        }
    }
    Ok(())
}

fn slowly(soak: &Soak, request: &[u8]) -> Result<u16, std::io::Error> {
    let mut stream = TcpStream::connect(soak.address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    for piece in request.chunks(request.len() / 20) {
        stream.write_all(piece)?;
        soak.sleep(Duration::from_millis(150));
    }
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    let text = String::from_utf8_lossy(&status);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| ErrorKind::InvalidData.into())
}

/// Sends requests without reading a reply, until the connection takes no more; and keeps the connection.
pub(super) fn never_read(soak: &Soak, texts: &[String]) -> Result<(), Failure> {
    let mut rng = StdRng::seed_from_u64(13);
    while soak.sleep(Duration::from_millis(500)) {
        let mut kept = Vec::new();
        for _ in 0..4 {
            let Ok(mut stream) = TcpStream::connect(soak.address) else { continue };
            stream.set_write_timeout(Some(Duration::from_millis(500)))?;
            for _ in 0..200 {
                if soak.stopped() || stream.write_all(&large(soak, texts, &mut rng)).is_err() {
                    break;
                }
            }
            soak.count("never read");
            kept.push(stream);
        }
        soak.sleep(Duration::from_secs(10));
    }
    Ok(())
}
