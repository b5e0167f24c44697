//! Tab-separated values as GLUE has them: split on tabs only, a quote is text.

use super::{Columns, Lines, Row, RowsError};

pub(super) fn rows(mut lines: Lines) -> Result<impl Iterator<Item = Result<Row, RowsError>> + Send, RowsError> {
    let path = lines.path.clone();
    let columns = match lines.next_line()? {
        Some((_, header)) if !header.is_empty() => Columns::find(&path, header.split('\t'))?,
        _ => return Err(RowsError::Empty { path }),
    };
    Ok(std::iter::from_fn(move || {
        loop {
            return match lines.next_line().transpose()? {
                Ok((_, "")) => continue,
                Ok((number, line)) => Some(columns.row(&path, number, line.split('\t').map(Some))),
                Err(error) => Some(Err(error)),
            };
        }
    }))
}
