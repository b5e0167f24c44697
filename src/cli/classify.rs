//! `polyrank classify`: texts in, JSON lines out.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use polyrank::engine::Row;
use polyrank::scheduler;
use polyrank::score::{Function, Scored, rank};
use polyrank::tokenize::Limit;
use serde::Serialize;

use super::input::{self, Text};
use super::{BaseArgs, Failure};

/// The most tokens of a forward pass.
const BATCH_TOKENS: usize = 16384;

#[derive(Debug, Args)]
pub(super) struct ClassifyArgs {
    #[command(flatten)]
    base: BaseArgs,
    /// The adapter's folder.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    #[command(flatten)]
    texts: TextArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TextArgs {
    /// A text; may be given several times.
    #[arg(long = "text", value_name = "T", allow_hyphen_values = true)]
    texts: Vec<String>,
    /// A file of texts: .tsv with a header (sentence; sentence1, sentence2; text, text_pair), .jsonl or .txt.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// One line of output.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    text: &'a Text,
    labels: Vec<Scored>,
}

pub(super) fn classify(args: &ClassifyArgs) -> Result<(), Failure> {
    let texts = match &args.texts.input {
        Some(file) => input::read(file)?,
        None => args.texts.texts.iter().map(|text| Text { text: text.clone(), text_pair: None }).collect(),
    };
    let engine = args.base.open()?;
    let adapter = Arc::new(engine.load_adapter(&args.adapter)?);
    let function = Function::of(&adapter);
    let limit = Limit { max_length: None, truncate: true };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut encoded = VecDeque::new();
    for text in &texts {
        let row =
            Row { text: engine.encode(&text.text, text.text_pair.as_deref(), &limit)?, adapter: Arc::clone(&adapter) };
        encoded.push_back((text, row));
    }
    while !encoded.is_empty() {
        let batch = scheduler::take(&mut encoded, BATCH_TOKENS, |(_, row)| row.text.ids.len(), |_| ());
        let (texts, rows): (Vec<&Text>, Vec<Row>) = batch.into_iter().unzip();
        for (text, logits) in texts.into_iter().zip(engine.logits(&rows)?) {
            let labels = rank(&adapter.labels, &logits, function, usize::MAX)
                .ok_or_else(|| format!("{}: the logits of {:?} are {logits:?}", args.adapter.display(), text.text))?;
            serde_json::to_writer(&mut out, &Line { text, labels }).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
    }
    Ok(())
}
