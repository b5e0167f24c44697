//! Reads the texts of a command from a data file or from standard input.

use std::path::Path;

use clap::ValueEnum;
use polyrank::text::records::{Record, Records};

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

/// Records of texts.
pub(super) type Texts = Box<dyn Iterator<Item = Result<Record, Failure>>>;

impl Format {
    /// Opens `input`, where `-` is standard input, and reads its header. Without a format, a file's extension decides, and standard
    /// input is read as JSON lines.
    pub(super) fn open(format: Option<Self>, input: &Path) -> Result<Texts, Failure> {
        let (rows, format) = match (format, input == Path::new(STDIN)) {
            (None, false) => (Records::open(input), None),
            (Some(format), false) => (Records::open_as(input, format.extension()), None),
            (Some(Self::Parquet), true) => {
                return Err(
                    "Parquet cannot be read from standard input, because its reader begins at the file's end: name a file".into()
                );
            }
            (format, true) => {
                let format = format.unwrap_or(Self::Jsonl);
                (Records::open_as(input, format.extension()), Some(format))
            }
        };
        let told = move |error: polyrank::text::records::RecordsError| -> Failure {
            let (Some(format), text) = (format, error.to_string()) else { return error.into() };
            let place = text.strip_prefix(STDIN).unwrap_or(&text);
            format!("standard input{place} (read as {}; --input-format names another format)", format.extension())
                .into()
        };
        Ok(Box::new(rows.map_err(told)?.map(move |row| row.map_err(told))))
    }

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
