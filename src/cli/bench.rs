//! `polyrank bench`: measures how fast a base with many adapters classifies texts, including tokenization and without a server.

use std::collections::VecDeque;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use polyrank::adapter::Adapter;
use polyrank::engine::score::{Function, rank};
use polyrank::engine::{Engine, Row};
use polyrank::registry::Registry;
use polyrank::scheduler;
use polyrank::text::Limit;
use rayon::prelude::*;
use serde::Serialize;

use super::texts::{InputArgs, name_of};
use super::{BaseArgs, Failure, print};

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    base: BaseArgs,
    /// Folder of adapters; each text goes to one of them, in turn
    #[arg(long, value_name = "DIR", help_heading = "Adapters")]
    adapters: PathBuf,
    /// Classify each text with every adapter, in one batch
    ///
    /// `texts` then counts answers, and the latency is that of one text with all its answers. The same work without sharing, one
    /// adapter after the other, is timed as well.
    #[arg(long, help_heading = "Adapters")]
    ask_all: bool,
    /// File of texts, as for `classify`; - reads standard input
    #[arg(long, value_name = "FILE", help_heading = "Texts")]
    input: PathBuf,
    #[command(flatten)]
    read: InputArgs,
    /// Maximum number of tokens in a batch
    #[arg(long, value_name = "N", default_value = "2048", help_heading = "Batching")]
    max_batch_tokens: NonZero<usize>,
    /// How many times to classify all texts; the median time is reported
    #[arg(long, value_name = "N", default_value = "5", help_heading = "Measurement")]
    repeats: NonZero<usize>,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank bench --adapters adapters --input examples/data/intent/validation.tsv
  polyrank bench --adapters adapters --input texts.txt --dtype int8 --json
  polyrank bench --adapters adapters --input texts.txt --ask-all";

/// The measurements.
#[derive(Serialize)]
struct Measured {
    texts: usize,
    tokens: usize,
    adapters: usize,
    dtype: &'static str,
    device: &'static str,
    texts_per_second: f64,
    tokens_per_second: f64,
    latency_ms: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    one_by_one: Option<OneByOne>,
}

/// The time from one text to its labels, when the text is classified alone.
#[derive(Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
}

/// The questions about one text, each in a forward pass of its own.
#[derive(Serialize)]
struct OneByOne {
    /// The time until the last question is answered.
    latency_ms: Latency,
    /// How many times faster the questions are answered together (p50).
    speedup: f64,
}

/// A text and the adapter that classifies it.
struct Question {
    text: String,
    pair: Option<String>,
    adapter: Arc<Adapter>,
}

/// The maximum number of texts that are timed alone.
const ALONE: usize = 200;

pub(super) fn bench(args: &BenchArgs) -> Result<(), Failure> {
    let rows = args.read.open(&args.input)?.collect::<Result<Vec<_>, _>>()?;
    if rows.is_empty() {
        return Err(format!("{} has no texts", name_of(&args.input)).into());
    }
    let engine = Arc::new(args.base.open()?);
    let registry = Registry::new(Arc::<Engine>::clone(&engine), &args.adapters, usize::MAX)?;
    let names = registry.list()?.into_iter().map(|status| status.name);
    let pins = names.map(|name| registry.get(&name)).collect::<Result<Vec<_>, _>>()?;
    let adapters: Vec<_> = pins.iter().map(|pin| Arc::clone(pin.adapter())).collect();
    if adapters.is_empty() {
        return Err(format!("{}: the folder has no adapters", args.adapters.display()).into());
    }
    let measured = measure(args, &engine, &questions(rows, &adapters, args.ask_all), adapters.len())?;
    if args.json {
        print(format_args!("{}", serde_json::to_string(&measured)?))
    } else {
        print(format_args!("{measured}"))
    }
}

/// Pairs each text with one of the adapters, in turn, or with all of them if `all` is true.
fn questions(rows: Vec<polyrank::text::records::Record>, adapters: &[Arc<Adapter>], all: bool) -> Vec<Question> {
    let each = if all { adapters.len() } else { 1 };
    let texts = rows.into_iter().flat_map(|row| std::iter::repeat_n(row, each));
    let question = |(row, adapter): (polyrank::text::records::Record, &Arc<Adapter>)| Question {
        text: row.text,
        pair: row.pair,
        adapter: Arc::clone(adapter),
    };
    texts.zip(adapters.iter().cycle()).map(question).collect()
}

fn measure(args: &BenchArgs, engine: &Engine, questions: &[Question], adapters: usize) -> Result<Measured, Failure> {
    let limit = args.max_batch_tokens.get();
    let tokens = answer(engine, questions, limit)?;
    let time = |questions: &[Question]| -> Result<Duration, Failure> {
        let start = Instant::now();
        answer(engine, questions, limit)?;
        Ok(start.elapsed())
    };
    let mut times = (0..args.repeats.get()).map(|_| time(questions)).collect::<Result<Vec<_>, _>>()?;
    let (mut alone, mut apart) = (Vec::with_capacity(ALONE), Vec::new());
    for text in questions.chunks(if args.ask_all { adapters } else { 1 }).take(ALONE) {
        alone.push(time(text)?);
        if args.ask_all {
            apart.push(text.chunks(1).map(time).sum::<Result<Duration, _>>()?);
        }
    }
    let seconds = percentile(&mut times, 50).as_secs_f64();
    let latency_ms = Latency::of(&mut alone);
    let one_by_one = args.ask_all.then(|| {
        let apart = Latency::of(&mut apart);
        OneByOne { speedup: apart.p50 / latency_ms.p50, latency_ms: apart }
    });
    Ok(Measured {
        texts: questions.len(),
        tokens,
        adapters,
        dtype: args.base.dtype.name(),
        device: engine.backend().name(),
        texts_per_second: questions.len() as f64 / seconds,
        tokens_per_second: tokens as f64 / seconds,
        latency_ms,
        one_by_one,
    })
}

impl Latency {
    fn of(times: &mut [Duration]) -> Self {
        let mut milliseconds = |percent| percentile(times, percent).as_secs_f64() * 1e3;
        Self { p50: milliseconds(50), p99: milliseconds(99) }
    }
}

/// Answers all questions in batches of at most `limit` tokens, as the server would. Returns the number of their tokens.
fn answer(engine: &Engine, questions: &[Question], limit: usize) -> Result<usize, Failure> {
    let encode = |question: &Question| {
        let cut = Limit::TRUNCATE;
        let text = engine.encode(&question.text, question.pair.as_deref(), &cut)?;
        Ok(Row { text, adapter: Arc::clone(&question.adapter) })
    };
    let rows = questions.par_iter().map(encode).collect::<Result<Vec<Row>, Failure>>()?;
    let tokens = rows.iter().map(|row| row.text.ids.len()).sum();
    let mut waiting = VecDeque::from(rows);
    while !waiting.is_empty() {
        let batch = scheduler::take(&mut waiting, limit, |row: &Row| row.text.ids.len());
        for (row, logits) in batch.iter().zip(engine.logits(&batch)?) {
            let labels = rank(&row.adapter.info.labels, &logits, Function::of(&row.adapter), usize::MAX);
            labels.ok_or_else(|| format!("logits {logits:?} for {} labels", row.adapter.info.labels.len()))?;
        }
    }
    Ok(tokens)
}

/// The smallest of `times` that at least `percent` percent of them, and at least one, do not exceed.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent).div_ceil(100).clamp(1, times.len()) - 1]
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { texts, tokens, adapters, dtype, device, .. } = self;
        writeln!(f, "{texts} texts of {tokens} tokens on {adapters} adapters, {dtype} on {device}")?;
        writeln!(f, "{:8.1} texts a second", self.texts_per_second)?;
        writeln!(f, "{:8.0} tokens a second", self.tokens_per_second)?;
        write!(f, "{:8.2} ms for one text alone (p50), {:.2} ms (p99)", self.latency_ms.p50, self.latency_ms.p99)?;
        match &self.one_by_one {
            Some(OneByOne { latency_ms: Latency { p50, p99 }, speedup }) => {
                write!(
                    f,
                    "\n{p50:8.2} ms for its questions one by one (p50), {p99:.2} ms (p99): {speedup:.2} times as long"
                )
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_use_nearest_rank() {
        let times = |n: u64| (1..=n).rev().map(Duration::from_millis).collect::<Vec<_>>();
        for (n, percent, expected) in [(1, 50, 1), (5, 50, 3), (4, 50, 2), (200, 99, 198), (3, 99, 3), (3, 0, 1)] {
            assert_eq!(percentile(&mut times(n), percent), Duration::from_millis(expected), "{n} {percent}");
        }
    }
}
