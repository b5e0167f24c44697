//! Watches the server: its memory, files and threads, and whether it answers.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{SILENCE, STEADY, Soak, question};
use crate::client;
use crate::common::Failure;
use crate::options::World;
use crate::server::{Moment, Server};
use crate::statistics::median;
use crate::table::Line;
use crate::versions::Versions;

/// What is observed of a server, one moment after the other.
pub(super) type Moments = Vec<Moment>;

const PAUSE: Duration = Duration::from_millis(250);
/// How long the server has to give back what clients that left took.
const SETTLE: Duration = Duration::from_secs(25);
/// Files and threads more than before that are no leak: threads of a pool end after a while.
const SPARE: usize = 8;
/// Letters of each failure that are told.
const TOLD: usize = 400;
/// Memory that may be taken in the last quarter on top of the second one.
const GROWTH: (f64, f64) = (1.10, 8e6);

/// Watches until the time is over. Where nothing is answered, it writes the stacks and ends the soak. Half-way, it kills the server and
/// starts it again, if that is asked for.
pub(super) fn watch(
    soak: &Soak,
    mut server: Server,
    (time, mut kill): (Duration, bool),
    restart: impl Fn(u16) -> Result<Server, Failure>,
    dumps: &Path,
) -> Result<(Server, Moments), Failure> {
    let begun = Instant::now();
    let mut moments = Vec::new();
    let mut healthy = || -> Result<(), Failure> {
        while begun.elapsed() < time && !soak.stopped() {
            std::thread::sleep(PAUSE);
            if kill && begun.elapsed() > time / 2 {
                kill = false;
                soak.seen().down.push((Instant::now(), None));
                server.kill()?;
                server = restart(soak.address.port())?;
                soak.adapters.iter().for_each(crate::versions::Versions::forget_generations);
                let mut seen = soak.seen();
                seen.answered = Instant::now();
                seen.down.iter_mut().for_each(|(_, until)| *until = Some(Instant::now()));
                moments.clear();
            }
            if !server.runs() {
                return Err(format!("the server ended: {}", server.log().join("; ")).into());
            }
            moments.push(server.moment()?);
            let health = client::once(soak.address, &client::get("/health"), Duration::from_secs(10));
            if !matches!(health, Ok(Some((200, _)))) {
                soak.fail(format!("/health: {health:?}"));
            }
            let silent = soak.seen().answered.elapsed();
            if silent > SILENCE {
                let file = server.dump_stacks(dumps)?;
                return Err(format!("nothing answered for {silent:?}; stacks in {}", file.display()).into());
            }
        }
        Ok(())
    };
    let result = healthy();
    soak.stop.store(true, Ordering::Relaxed);
    if let Err(failure) = result {
        soak.fail(failure.to_string());
    }
    Ok((server, moments))
}

/// Checks that everything answers once the clients have left, and that nothing was leaked; ends the server.
pub(super) fn finish(
    soak: &Soak,
    server: Server,
    moments: &[Moment],
    texts: &[String],
    world: &World,
) -> Result<Vec<Line>, Failure> {
    let begun = Instant::now();
    let idle = soak.idle;
    let clients_left = |moment: Moment| moment.files <= idle.files + SPARE && moment.threads <= idle.threads + SPARE;
    let mut last = server.moment()?;
    while !clients_left(last) && begun.elapsed() < SETTLE {
        std::thread::sleep(PAUSE);
        last = server.moment()?;
    }
    ask_all(soak, texts);
    let ended = server.stop(&world.options.dumps);
    Ok(vec![
        answers(soak),
        delays(soak),
        memory(idle, moments, last),
        Line {
            what: "files and threads once the clients have left".into(),
            measured: format!("{} and {}", last.files, last.threads),
            goal: "as at the start",
            met: Some(clients_left(last)),
            beside: format!(
                "{} and {} at the start, at most {} and {}",
                idle.files,
                idle.threads,
                most(moments, |moment| moment.files),
                most(moments, |moment| moment.threads)
            ),
        },
        Line {
            what: "SIGTERM to the end".into(),
            measured: match &ended {
                Ok(time) => format!("{:.2} s", time.as_secs_f64()),
                Err(failure) => failure.to_string(),
            },
            goal: "it ends",
            met: Some(ended.is_ok()),
            beside: String::new(),
        },
    ])
}

/// Asks each adapter that was never replaced once more, and notes wrong answers as failures.
fn ask_all(soak: &Soak, texts: &[String]) {
    for adapter in &soak.adapters[..STEADY] {
        let begun = Instant::now();
        let reply = client::once(soak.address, &question(&adapter.name, texts, &[0]), SILENCE);
        let body = match &reply {
            Ok(Some((200, text))) => text.split_once("\r\n\r\n").map_or("", |(_, body)| body),
            _ => "",
        };
        let body = serde_json::from_str(body).unwrap_or_default();
        if let Err(reason) = adapter.check(&body, &[0], None, (begun, Instant::now()), Duration::ZERO) {
            soak.fail(format!("after the soak: {reason}: {reply:?}"));
        }
    }
}

/// The largest value of all moments.
fn most(moments: &[Moment], of: fn(&Moment) -> usize) -> usize {
    moments.iter().map(of).max().unwrap_or(0)
}

fn answers(soak: &Soak) -> Line {
    let seen = soak.seen();
    let counts: Vec<String> = seen.counts.iter().map(|(what, count)| format!("{what}: {count}")).collect();
    let tell =
        |(count, first): &(usize, String)| format!("{count} times {}", first.chars().take(TOLD).collect::<String>());
    let told: Vec<String> = seen.kinds.values().map(tell).collect();
    let answered = seen.counts.get("answered").copied().unwrap_or(0);
    Line {
        what: "every accepted request answered once, as one current version answers".into(),
        measured: format!("{answered} answered, {} failures", seen.failures),
        goal: "no failure",
        met: Some(seen.failures == 0 && answered > 0),
        beside: format!("{}; failures: {}", counts.join(", "), told.join(" // ")),
    }
}

fn memory(idle: Moment, moments: &[Moment], last: Moment) -> Line {
    let [early, late] = [moments.len() / 4..moments.len() / 2, moments.len() * 3 / 4..moments.len()]
        .map(|range| median(&mut moments[range].iter().map(|moment| moment.memory as f64).collect::<Vec<_>>()));
    Line {
        what: "memory in the last quarter against the second one".into(),
        measured: format!("{:.0} against {:.0} MB", late / 1e6, early / 1e6),
        goal: "level",
        met: Some(late <= early * GROWTH.0 + GROWTH.1),
        beside: format!(
            "{:.0} MB at the start, at most {:.0}, {:.0} at the end",
            idle.memory as f64 / 1e6,
            most(moments, |moment| moment.memory) as f64 / 1e6,
            last.memory as f64 / 1e6
        ),
    }
}

/// How long it took until new versions answered, in this overload and with memory for fewer adapters than are asked.
fn delays(soak: &Soak) -> Line {
    let of = |adapter: &Versions| adapter.delays().iter().map(Duration::as_secs_f64).collect::<Vec<_>>();
    let mut all: Vec<f64> = soak.adapters.iter().flat_map(of).collect();
    let by_adapter = soak.adapters[STEADY..].iter().map(|adapter| {
        let longest = of(adapter).into_iter().fold(0.0, f64::max);
        format!("{} at most {longest:.2}", adapter.name)
    });
    let (count, beside) = (all.len(), by_adapter.collect::<Vec<_>>().join(", "));
    let (middle, longest) = (median(&mut all), all.iter().copied().fold(0.0, f64::max));
    Line {
        what: "from a changed folder to the new version's first answer: median, longest".into(),
        measured: format!("{middle:.2} s, {longest:.2} s of {count}"),
        goal: "",
        met: None,
        beside,
    }
}
