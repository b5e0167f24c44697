//! Load on a server: many connections, all asked by the calling thread.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::{JoinSet, LocalSet};

use crate::client::{Connection, Reply};
use crate::common::Failure;
use crate::statistics::percentile;

/// How long a request of the load may take. The server's own time-out is shorter.
const LONGEST: Duration = Duration::from_secs(60);

/// Open-loop requests that may be under way at once.
const UNDER_WAY: usize = 8000;

/// One request of a load and what became of it.
pub(crate) struct Sample {
    /// The index of the question.
    pub(crate) question: usize,
    /// 200 and so on; 0 if there was no reply.
    pub(crate) status: u16,
    /// When it was due. With open loops, requests may be sent later than that.
    pub(crate) due: Instant,
    pub(crate) sent: Instant,
    pub(crate) ended: Instant,
}

impl Sample {
    /// From when it was due to its reply.
    pub(crate) fn took(&self) -> Duration {
        self.ended - self.due
    }

    /// From when it was sent to its reply.
    pub(crate) fn answered_in(&self) -> Duration {
        self.ended - self.sent
    }
}

/// What a slice of load gave.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) samples: Vec<Sample>,
    /// How long the slice took.
    pub(crate) elapsed: Duration,
    /// Processor time that asking took.
    pub(crate) cost: Duration,
}

impl Tally {
    pub(crate) fn count(&self, status: u16) -> usize {
        self.samples.iter().filter(|sample| sample.status == status).count()
    }

    /// Answers with status 200 a second.
    pub(crate) fn rate(&self) -> f64 {
        self.count(200) as f64 / self.elapsed.as_secs_f64()
    }

    /// The 99th percentile of answers to the questions that `of` names, in milliseconds.
    pub(crate) fn p99(&self, of: impl Fn(usize) -> bool) -> f64 {
        let answered = self.samples.iter().filter(|sample| sample.status == 200 && of(sample.question));
        percentile(&mut answered.map(Sample::took).collect::<Vec<_>>(), 99)
    }

    /// The share of one core that asking took.
    pub(crate) fn share(&self) -> f64 {
        self.cost.as_secs_f64() / self.elapsed.as_secs_f64()
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.samples.extend(other.samples);
        self.elapsed += other.elapsed;
        self.cost += other.cost;
    }

    /// Every status with its count.
    pub(crate) fn statuses(&self) -> String {
        let mut counts = std::collections::BTreeMap::<u16, usize>::new();
        self.samples.iter().for_each(|sample| *counts.entry(sample.status).or_default() += 1);
        counts.iter().map(|(status, count)| format!("{count} of {status}")).collect::<Vec<_>>().join(", ")
    }
}

/// A look at a reply.
type Look = dyn Fn(&Sample, &Reply);

/// What is asked: the bytes of each question, the choice of the next one, and a look at each reply.
#[derive(Clone)]
pub(crate) struct Asking {
    pub(crate) address: SocketAddr,
    pub(crate) questions: Rc<Vec<Vec<u8>>>,
    pub(crate) choose: Rc<RefCell<dyn FnMut() -> usize>>,
    pub(crate) look: Rc<Look>,
}

impl Asking {
    /// Asks the questions in turn, and looks at no reply.
    pub(crate) fn in_turn(address: SocketAddr, questions: Rc<Vec<Vec<u8>>>) -> Self {
        let (mut next, count) = (0, questions.len());
        let choose = move || {
            next += 1;
            (next - 1) % count
        };
        Self { address, questions, choose: Rc::new(RefCell::new(choose)), look: Rc::new(|_, _| {}) }
    }

    pub(crate) fn choosing(self, choose: impl FnMut() -> usize + 'static) -> Self {
        Self { choose: Rc::new(RefCell::new(choose)), ..self }
    }

    pub(crate) fn looking(self, look: impl Fn(&Sample, &Reply) + 'static) -> Self {
        Self { look: Rc::new(look), ..self }
    }

    /// Asks the next question, which was due at `due`. Returns the connection if it is still good.
    async fn ask(&self, due: Instant, kept: Option<Connection>) -> (Sample, Option<Connection>) {
        let question = (self.choose.borrow_mut())();
        let mut sample = Sample { question, status: 0, due, sent: due, ended: due };
        let mut connection = match kept {
            Some(connection) => connection,
            None => match Connection::open(self.address).await {
                Ok(connection) => connection,
                Err(_) => return (Sample { ended: Instant::now(), ..sample }, None),
            },
        };
        sample.sent = Instant::now();
        let reply = tokio::time::timeout(LONGEST, connection.ask(&self.questions[question])).await;
        sample.ended = Instant::now();
        match reply {
            Ok(Ok(reply)) => {
                sample.status = reply.status;
                (self.look)(&sample, &reply);
                (sample, Some(connection))
            }
            _ => (sample, None),
        }
    }
}

/// Runs `future`, which may spawn local tasks, on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, future)
}

/// Asks over `connections` connections for `time`, each connection as soon as it has its reply.
pub(crate) fn closed(asking: &Asking, connections: usize, time: Duration) -> Result<Tally, Failure> {
    closed_together(&[(asking, connections)], time)
}

/// As [`closed`], with several kinds of clients at once, each with a number of connections.
pub(crate) fn closed_together(clients: &[(&Asking, usize)], time: Duration) -> Result<Tally, Failure> {
    block_on(async {
        let mut opened = Vec::new();
        for (asking, connections) in clients {
            for _ in 0..*connections {
                opened.push(((*asking).clone(), Connection::open(asking.address).await?));
            }
        }
        let (begun, cost) = (Instant::now(), processor_time()?);
        let end = begun + time;
        let mut tasks = JoinSet::new();
        for (asking, connection) in opened {
            tasks.spawn_local(async move {
                let (mut kept, mut samples) = (Some(connection), Vec::new());
                while Instant::now() < end {
                    let sample;
                    (sample, kept) = asking.ask(Instant::now(), kept).await;
                    samples.push(sample);
                }
                samples
            });
        }
        let samples = tasks.join_all().await.into_iter().flatten().collect();
        Ok(Tally { samples, elapsed: begun.elapsed(), cost: processor_time()?.saturating_sub(cost) })
    })
}

/// Asks `rate` times a second for `time`, at random moments, whether earlier requests have been answered or not. Then waits for all
/// replies.
pub(crate) fn open(asking: &Asking, rate: f64, time: Duration, seed: u64) -> Result<Tally, Failure> {
    let mut rng = StdRng::seed_from_u64(seed);
    block_on(async {
        let (begun, cost) = (Instant::now(), processor_time()?);
        let idle: Rc<RefCell<Vec<Connection>>> = Rc::default();
        let mut tasks = JoinSet::new();
        let mut samples = Vec::new();
        let mut due = begun;
        loop {
            due += Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / rate);
            if due > begun + time {
                break;
            }
            tokio::time::sleep_until(due.into()).await;
            while let Some(ended) = tasks.try_join_next() {
                samples.push(ended?);
            }
            if tasks.len() >= UNDER_WAY {
                return Err(format!("{UNDER_WAY} requests are under way").into());
            }
            let (asking, idle) = (asking.clone(), Rc::clone(&idle));
            tasks.spawn_local(async move {
                let kept = idle.borrow_mut().pop();
                let (sample, kept) = asking.ask(due, kept).await;
                idle.borrow_mut().extend(kept);
                sample
            });
        }
        samples.extend(tasks.join_all().await);
        Ok(Tally { samples, elapsed: begun.elapsed(), cost: processor_time()?.saturating_sub(cost) })
    })
}

/// The processor time that this thread has taken.
fn processor_time() -> Result<Duration, Failure> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse()?))
}
