//! `polyrank classify`: classifies texts and prints a JSON line for each.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

use clap::Args;
use polyrank::adapter::Adapter;
use polyrank::engine::score::{Function, Scored, rank};
use polyrank::engine::{Engine, Row};
use polyrank::panics;
use polyrank::scheduler;
use polyrank::text::Limit;
use polyrank::text::records::Record;
use serde::Serialize;

use super::texts::{InputArgs, name_of};
use super::{BaseArgs, Failure, no_adapter};

/// The maximum number of tokens in a batch.
const BATCH_TOKENS: usize = 16384;
/// The maximum number of texts that are read ahead, and of those that wait for a batch, so that memory does not grow with the file.
const TEXTS_AT_ONCE: usize = 1024;

#[derive(Debug, Args)]
pub(super) struct ClassifyArgs {
    #[command(flatten)]
    base: BaseArgs,
    /// The adapter's folder
    #[arg(long, value_name = "DIR", help_heading = "Adapters")]
    adapter: PathBuf,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    read: InputArgs,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank classify --adapter adapters/intent --text 'Where is my parcel?' --text 'Thank you!'
  polyrank classify --adapter adapters/intent --input examples/data/intent/validation.tsv
  printf '%s\\n' '{\"text\": \"Where is my parcel?\"}' | polyrank classify --adapter adapters/intent --input -
  printf '%s\\n' 'Where is my parcel?' | polyrank classify --adapter adapters/intent --input - --input-format txt

The columns or keys of an input are named sentence; or sentence1 and sentence2; or text and, for pairs, text_pair; or as
--text-column and --text-pair-column say. Others are ignored.";

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TextArgs {
    /// A text; may be given several times
    #[arg(
        long = "text",
        value_name = "T",
        allow_hyphen_values = true,
        conflicts_with_all = ["input_format", "text_column", "text_pair_column"],
        help_heading = "Texts"
    )]
    texts: Vec<String>,
    /// File of texts: .tsv, .csv, .json, .jsonl, .parquet or .txt (one text on each line); - reads standard input
    #[arg(long, value_name = "FILE", help_heading = "Texts")]
    input: Option<PathBuf>,
}

/// A text, or a pair of texts.
#[derive(Serialize)]
struct Text {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<String>,
    /// The line of the input at which it begins, or its place among the flags `--text`; from 1.
    #[serde(skip)]
    line: usize,
}

/// Texts that are read one by one.
type Texts = Box<dyn Iterator<Item = Result<Text, Failure>> + Send>;

/// One line of output.
#[derive(Serialize)]
struct OutputLine<'a> {
    #[serde(flatten)]
    text: &'a Text,
    labels: Vec<Scored>,
    /// Whether the text was longer than the base allows, so that its end had no effect.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

pub(super) fn classify(args: &ClassifyArgs) -> Result<(), Failure> {
    let source = args.texts.input.as_deref().map_or_else(|| "--text".to_owned(), name_of);
    // The file's header is read before the base is loaded, so that a wrong file fails at once.
    let texts = texts(args)?;
    let engine = args.base.open()?;
    let adapter = engine.load_adapter(&args.adapter).map_err(|error| no_adapter(&args.adapter, error))?;
    let adapter = Arc::new(adapter);
    let mut out = BufWriter::new(io::stdout().lock());
    let mut truncated = 0;
    let mut ahead = ReadAhead::start(source.clone(), texts)?;
    let mut failed = None;
    while failed.is_none() {
        let (some, unread) = ahead.take();
        if some.is_empty() {
            failed = unread;
            break;
        }
        let (scored, unanswered) = score(&engine, &adapter, &some);
        for line in scored {
            serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
            truncated += usize::from(line.truncated);
        }
        out.flush()?;
        failed = unanswered.map(|unanswered| unanswered.named(&source, &args.adapter)).or(unread);
    }
    if truncated > 0 {
        let (texts, longest) = (if truncated == 1 { "text is" } else { "texts are" }, engine.max_length());
        let _ = writeln!(io::stderr(), "{truncated} {texts} longer than {longest} tokens, and truncated");
    }
    failed.map_or(Ok(()), Err)
}

/// The texts of the flags or of the input, whose header is read here.
fn texts(args: &ClassifyArgs) -> Result<Texts, Failure> {
    let texts: Texts = match &args.texts.input {
        Some(file) => {
            let text = |Record { line, text, pair, .. }: Record| Text { text, text_pair: pair, line };
            Box::new(args.read.open(file)?.map(move |row| row.map(text)))
        }
        None => {
            let texts = args.texts.texts.clone().into_iter().zip(1..);
            Box::new(texts.map(|(text, line)| Ok(Text { text, text_pair: None, line })))
        }
    };
    Ok(texts)
}

/// A thread that reads texts, so that those that are there are answered while others are still awaited.
struct ReadAhead {
    /// What errors call the source of the texts.
    source: String,
    texts: Receiver<Result<Text, Failure>>,
    /// `None` once it has ended.
    thread: Option<JoinHandle<()>>,
}

impl ReadAhead {
    fn start(
        source: String,
        texts: impl Iterator<Item = Result<Text, Failure>> + Send + 'static,
    ) -> Result<Self, Failure> {
        let (sender, receiver) = mpsc::sync_channel(TEXTS_AT_ONCE);
        let thread = thread::Builder::new().name("polyrank-read".into()).spawn(move || {
            for text in texts {
                // The receiver is gone once the program ends early.
                if sender.send(text).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { source, texts: receiver, thread: Some(thread) })
    }

    /// The next texts: the first one is awaited, and those that are there come with it. An error ends them; the texts before it count.
    fn take(&mut self) -> (Vec<Text>, Option<Failure>) {
        let mut some = Vec::new();
        let Ok(mut text) = self.texts.recv() else { return (some, self.end().err()) };
        loop {
            match text {
                Ok(text) => some.push(text),
                Err(error) => return (some, Some(error)),
            }
            if some.len() == TEXTS_AT_ONCE {
                return (some, None);
            }
            match self.texts.try_recv() {
                Ok(next) => text = next,
                // None is there yet, or none will come, which the next call finds out.
                Err(_) => return (some, None),
            }
        }
    }

    /// Waits for the thread, which has no more texts. If it panicked, texts are missing.
    fn end(&mut self) -> Result<(), Failure> {
        let panicked = self.thread.take().and_then(|thread| thread.join().err());
        panicked.map_or(Ok(()), |panic| {
            Err(format!("{}: reading it panicked: {}", self.source, panics::message(&*panic)).into())
        })
    }
}

/// Why texts have no answer.
enum Unanswered {
    /// Something is wrong with the text at this line.
    Text(usize, String),
    /// The forward pass failed.
    Pass(polyrank::engine::Error),
}

impl Unanswered {
    /// The failure of texts of `source` with the adapter in the folder `adapter`.
    fn named(self, source: &str, adapter: &Path) -> Failure {
        match self {
            Self::Text(line, reason) => format!("{source}:{line}: {reason}").into(),
            Self::Pass(error) => format!("{}: {error}", adapter.display()).into(),
        }
    }
}

/// A line for each text, in the order of the texts. An error ends them; the lines before it count.
fn score<'a>(engine: &Engine, adapter: &Arc<Adapter>, texts: &'a [Text]) -> (Vec<OutputLine<'a>>, Option<Unanswered>) {
    let limit = Limit::TRUNCATE;
    let (mut waiting, mut truncated) = (VecDeque::with_capacity(texts.len()), Vec::with_capacity(texts.len()));
    let mut unanswered = None;
    for text in texts {
        match engine.encode(&text.text, text.text_pair.as_deref(), &limit) {
            Ok(encoded) => {
                truncated.push(encoded.truncated);
                waiting.push_back(Row { text: encoded, adapter: Arc::clone(adapter) });
            }
            Err(error) => {
                unanswered = Some(Unanswered::Text(text.line, error.to_string()));
                break;
            }
        }
    }
    let function = Function::of(adapter);
    let mut scored = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let rows: Vec<Row> = scheduler::take(&mut waiting, BATCH_TOKENS, |row| row.text.ids.len());
        let answers = match engine.logits(&rows) {
            Ok(answers) => answers,
            Err(error) => return (scored, Some(Unanswered::Pass(error))),
        };
        for logits in answers {
            let (text, truncated) = (&texts[scored.len()], truncated[scored.len()]);
            let Some(labels) = rank(&adapter.info.labels, &logits, function, usize::MAX) else {
                let reason = format!("the logits of {:?} are {logits:?}", text.text);
                return (scored, Some(Unanswered::Text(text.line, reason)));
            };
            scored.push(OutputLine { text, labels, truncated });
        }
    }
    (scored, unanswered)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::iter;

    use super::*;

    /// Otherwise the texts would seem to end there, and the program would succeed without the others.
    #[test]
    fn panic_of_the_reader_is_a_failure_after_the_texts_before_it() {
        let text = |line| -> Result<Text, Failure> { Ok(Text { text: format!("text {line}"), text_pair: None, line }) };
        let texts = (1..=3).map(text).chain(iter::once_with(|| -> Result<Text, Failure> { panic!("broken page") }));
        let mut ahead = ReadAhead::start("x.parquet".to_owned(), texts).unwrap();
        let mut read = Vec::new();
        let failed = loop {
            let (some, failed) = ahead.take();
            if some.is_empty() {
                break failed;
            }
            read.extend(some.into_iter().map(|text| text.line));
        };
        assert_eq!(read, [1, 2, 3]);
        assert_eq!(failed.unwrap().to_string(), "x.parquet: reading it panicked: broken page");
        assert!(ahead.take().1.is_none());
    }
}
