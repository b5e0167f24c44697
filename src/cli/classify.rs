//! `polyrank classify`: classifies texts and prints a JSON line for each.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use clap::Args;
use polyrank::adapter::Adapter;
use polyrank::engine::score::{Function, Scored, rank};
use polyrank::engine::{Engine, Row};
use polyrank::scheduler;
use polyrank::text::Limit;
use serde::Serialize;

use super::texts::InputArgs;
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
}

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
    // The file's header is read before the base is loaded, so that a wrong file fails at once.
    let texts: Box<dyn Iterator<Item = Result<Text, Failure>> + Send> = match &args.texts.input {
        Some(file) => {
            let rows = args.read.open(file)?;
            Box::new(rows.map(|row| row.map(|row| Text { text: row.text, text_pair: row.pair })))
        }
        None => {
            let texts = args.texts.texts.clone().into_iter();
            Box::new(texts.map(|text| Ok(Text { text, text_pair: None })))
        }
    };
    let engine = args.base.open()?;
    let adapter = engine.load_adapter(&args.adapter).map_err(|error| no_adapter(&args.adapter, error))?;
    let adapter = Arc::new(adapter);
    let mut out = BufWriter::new(io::stdout().lock());
    let mut truncated = 0;
    let texts = read_ahead(texts)?;
    let mut failed = None;
    while failed.is_none() {
        let (some, error) = next(&texts);
        failed = error;
        if some.is_empty() {
            break;
        }
        let scored = score(&engine, &adapter, &some).map_err(|error| format!("{}: {error}", args.adapter.display()))?;
        for line in scored {
            serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
            truncated += usize::from(line.truncated);
        }
        out.flush()?;
    }
    if truncated > 0 {
        let (texts, longest) = (if truncated == 1 { "text is" } else { "texts are" }, engine.max_length());
        let _ = writeln!(io::stderr(), "{truncated} {texts} longer than {longest} tokens, and truncated");
    }
    failed.map_or(Ok(()), Err)
}

/// Reads texts on a thread of its own, so that those that are there are answered while others are still awaited.
fn read_ahead(
    texts: impl Iterator<Item = Result<Text, Failure>> + Send + 'static,
) -> Result<Receiver<Result<Text, Failure>>, Failure> {
    let (sender, receiver) = mpsc::sync_channel(TEXTS_AT_ONCE);
    thread::Builder::new().name("polyrank-read".into()).spawn(move || {
        for text in texts {
            // The receiver is gone once the program ends early.
            if sender.send(text).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The next texts: the first one is awaited, and those that are there come with it. An error ends them; the texts before it count.
fn next(texts: &Receiver<Result<Text, Failure>>) -> (Vec<Text>, Option<Failure>) {
    let mut some = Vec::new();
    let mut text = texts.recv().ok();
    while let Some(Ok(next)) = text {
        some.push(next);
        if some.len() == TEXTS_AT_ONCE {
            return (some, None);
        }
        text = texts.try_recv().ok();
    }
    (some, text.and_then(Result::err))
}

/// A line for each text, in the order of the texts.
fn score<'a>(engine: &Engine, adapter: &Arc<Adapter>, texts: &'a [Text]) -> Result<Vec<OutputLine<'a>>, Failure> {
    let limit = Limit::TRUNCATE;
    let (mut waiting, mut truncated) = (VecDeque::with_capacity(texts.len()), Vec::with_capacity(texts.len()));
    for text in texts {
        let text = engine.encode(&text.text, text.text_pair.as_deref(), &limit)?;
        truncated.push(text.truncated);
        waiting.push_back(Row { text, adapter: Arc::clone(adapter) });
    }
    let function = Function::of(adapter);
    let mut scored = Vec::with_capacity(texts.len());
    while !waiting.is_empty() {
        let rows: Vec<Row> = scheduler::take(&mut waiting, BATCH_TOKENS, |row| row.text.ids.len());
        for logits in engine.logits(&rows)? {
            let labels = rank(&adapter.info.labels, &logits, function, usize::MAX);
            let (text, truncated) = (&texts[scored.len()], truncated[scored.len()]);
            let labels = labels.ok_or_else(|| format!("the logits of {:?} are {logits:?}", text.text))?;
            scored.push(OutputLine { text, labels, truncated });
        }
    }
    Ok(scored)
}
