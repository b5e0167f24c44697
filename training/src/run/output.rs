//! Where a run writes its adapter. A run in a folder of its own records it, so that a call that continues the run with a mistyped
//! `--output` replaces no other adapter.

use std::path::{Path, PathBuf};
use std::{fs, io};

use polyrank::atomic_file;

use super::{Folders, OUTPUT, absent_or, names, read};
use crate::error::Error;

/// Checks that the output folder is the one that the run began with, or that it holds nothing.
///
/// # Errors
/// It is another folder with files in it.
pub(super) fn check(folders: &Folders) -> Result<(), Error> {
    match recorded(&folders.run)? {
        Some(before) if Some(&before) != canonical(folders)?.as_ref() && !names(&folders.output)?.is_empty() => {
            Err(Error::OtherOutput { run: folders.run.clone(), before, now: folders.output.clone() })
        }
        _ => Ok(()),
    }
}

/// The output folder of the run in the folder `run`; `None` if it is in its usual place, or not recorded.
///
/// # Errors
/// The file cannot be read.
pub(super) fn recorded(run: &Path) -> Result<Option<PathBuf>, Error> {
    read(&run.join(OUTPUT), |text| Ok(text.into()))
}

/// Records the output folder, unless the run is in its usual place in it.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(folders: &Folders) -> Result<(), Error> {
    if *folders == Folders::new(&folders.output, None) {
        return Ok(());
    }
    fs::create_dir_all(&folders.output).map_err(Error::io(&folders.output))?;
    let path = folders.run.join(OUTPUT);
    // A path that is no Unicode is not compared.
    match canonical(folders)?.as_deref().and_then(|output| output.to_str()) {
        Some(output) => atomic_file::write(&path, output.as_bytes()).map_err(Error::io(&path)),
        None => absent_or(fs::remove_file(&path)).map_err(Error::io(&path)),
    }
}

/// The output folder without links; `None` if it does not exist.
fn canonical(Folders { output, .. }: &Folders) -> Result<Option<PathBuf>, Error> {
    match output.canonicalize() {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(output)(error)),
    }
}
