//! Reads tab-separated values in GLUE's format: only tabs separate fields, and quotes are part of the text.

use super::{ColumnNames, Header, LabelColumn, Lines, Record, RecordsError};

pub(super) fn rows(
    mut lines: Lines,
    names: &ColumnNames,
    labels: LabelColumn,
) -> Result<impl Iterator<Item = Result<Record, RecordsError>> + Send + use<>, RecordsError> {
    let path = lines.path.clone();
    let columns = loop {
        match lines.next_bytes()? {
            Some((_, b"")) => {}
            Some((_, header)) => {
                break Header::find(&path, String::from_utf8_lossy(header).split('\t'), names, labels)?;
            }
            None => return Err(RecordsError::Empty { path }),
        }
    };
    Ok(std::iter::from_fn(move || {
        loop {
            return match lines.next_bytes().transpose()? {
                Ok((_, b"")) => continue,
                Ok((number, line)) => Some(columns.row(&path, number, line.split(|byte| *byte == b'\t'))),
                Err(error) => Some(Err(error)),
            };
        }
    }))
}
