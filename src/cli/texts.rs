//! Reads the texts of a command from a data file or from standard input.

use std::path::Path;

use clap::{Args, ValueEnum};
use polyrank::text::records::{ColumnNames, LabelColumn, Record, Records, RecordsError};

use super::Failure;

/// The format of `--input`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Tab-separated values without quoting, with a header.
    Tsv,
    /// Comma-separated values with a header.
    Csv,
    /// A JSON object on each line, or one array of objects.
    Jsonl,
    /// Parquet; not from standard input.
    Parquet,
    /// One text on each line.
    Txt,
}

/// The path that stands for standard input.
const STDIN: &str = "-";
/// What errors call standard input.
const STDIN_NAME: &str = "standard input";

/// What errors call `input`.
pub(super) fn name_of(input: &Path) -> String {
    if input == Path::new(STDIN) { STDIN_NAME.to_owned() } else { input.display().to_string() }
}

/// How `--input` is read.
#[derive(Debug, Args)]
pub(super) struct InputArgs {
    /// Format of --input [default: by the file's extension; jsonl for standard input]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Texts")]
    input_format: Option<Format>,
    /// Column of the texts [default: sentence, sentence1 or text]; with this flag, second texts need --text-pair-column
    #[arg(long, value_name = "NAME", help_heading = "Texts")]
    text_column: Option<String>,
    /// Column of the second texts [default: sentence2 or text_pair]
    #[arg(long, value_name = "NAME", help_heading = "Texts")]
    text_pair_column: Option<String>,
}

/// Records of texts.
pub(super) type Texts = Box<dyn Iterator<Item = Result<Record, Failure>> + Send>;

impl InputArgs {
    /// Opens `input`, where `-` is standard input, and reads its header. Without a format, a file's extension decides, and standard
    /// input is read as JSON lines.
    pub(super) fn open(&self, input: &Path) -> Result<Texts, Failure> {
        let labels = LabelColumn::Ignored;
        let names = ColumnNames { label: None, text: self.text_column.clone(), pair: self.text_pair_column.clone() };
        let (rows, format) = match (self.input_format, input == Path::new(STDIN)) {
            (None, false) => (Records::select(input, &names, labels), None),
            (Some(format), false) => (Records::open_as(input, format.extension(), &names, labels), None),
            (Some(Format::Parquet), true) => {
                return Err(
                    "Parquet cannot be read from standard input, because its reader begins at the file's end: name a file".into()
                );
            }
            (format, true) => {
                let format = format.unwrap_or(Format::Jsonl);
                (Records::open_as(input, format.extension(), &names, labels), Some(format))
            }
        };
        let with_format = move |error: RecordsError| -> Failure {
            let (Some(format), text) = (format, error.to_string()) else { return error.into() };
            let place = text.strip_prefix(STDIN).unwrap_or(&text);
            format!("{STDIN_NAME}{place} (read as {}; --input-format names another format)", format.extension()).into()
        };
        Ok(Box::new(rows.map_err(with_format)?.map(move |row| row.map_err(with_format))))
    }
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Tsv => "tsv",
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::Txt => "txt",
        }
    }
}
