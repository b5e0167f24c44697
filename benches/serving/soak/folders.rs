//! Folders that change: exchanged whole, copied over slowly, broken, deleted and made again, and put in service by `PUT`.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use super::Soak;
use crate::client;
use crate::common::Failure;
use crate::versions::{Installed, Versions, copy};

/// The adapters that change, by what happens to them.
pub(super) const NAMES: [&str; 6] = ["exchanged-0", "exchanged-1", "copied", "broken", "deleted", "put"];
/// Versions of each.
pub(super) const VERSIONS: usize = 10;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Changes one folder after the other until the soak ends. Every folder is whole in the end.
pub(super) fn change(soak: &Soak, _texts: &[String]) -> Result<(), Failure> {
    let mut rng = StdRng::seed_from_u64(7);
    let changing: Vec<&Versions> =
        soak.adapters.iter().filter(|adapter| NAMES.contains(&adapter.name.as_str())).collect();
    while soak.sleep(Duration::from_millis(rng.random_range(200..800))) {
        // A server that starts again must find whole folders: what it has never served cannot serve on.
        if soak.was_down(Instant::now()) {
            continue;
        }
        let Some(adapter) = changing.choose(&mut rng) else { return Ok(()) };
        match adapter.name.as_str() {
            "copied" => copy_over(adapter, &mut rng)?,
            "broken" => break_and_mend(soak, adapter, &mut rng)?,
            "deleted" => delete_and_restore(soak, adapter)?,
            "put" if soak.updates => withdraw_and_put(soak, adapter)?,
            _ => drop(adapter.install_next()?),
        }
        soak.count(format!("changed {}", adapter.name));
    }
    Ok(())
}

/// Copies a version over the one before, file by file and piece by piece, as `cp` over a slow network does.
fn copy_over(adapter: &Versions, rng: &mut StdRng) -> Result<(), Failure> {
    let version = adapter.next();
    adapter.note(Installed::Broken);
    let mut names: Vec<_> =
        fs::read_dir(&adapter.pool[version])?.map(|entry| Ok(entry?.file_name())).collect::<Result<_, Failure>>()?;
    names.sort();
    let last = names.len() - 1;
    for (i, name) in names.iter().enumerate() {
        let bytes = fs::read(adapter.pool[version].join(name))?;
        let mut file = File::create(adapter.dir.join(name))?;
        let middle = rng.random_range(0..bytes.len());
        file.write_all(&bytes[..middle])?;
        thread::sleep(Duration::from_millis(20));
        if i == last {
            adapter.note(Installed::Version(version));
        }
        file.write_all(&bytes[middle..])?;
    }
    Ok(())
}

/// Exchanges the folder for a broken one, and that one for a whole version.
fn break_and_mend(soak: &Soak, adapter: &Versions, rng: &mut StdRng) -> Result<(), Failure> {
    let beside = adapter.dir.with_file_name(".broken");
    copy(&adapter.pool[adapter.next()], &beside)?;
    damage(&beside, rng)?;
    adapter.note(Installed::Broken);
    renameat_with(CWD, &beside, CWD, &adapter.dir, RenameFlags::EXCHANGE)?;
    fs::remove_dir_all(&beside)?;
    soak.sleep(Duration::from_millis(rng.random_range(300..1500)));
    adapter.install_next()?;
    Ok(())
}

/// Makes the adapter in `dir` one that must be refused.
fn damage(dir: &Path, rng: &mut StdRng) -> Result<(), Failure> {
    match rng.random_range(0..6) {
        0 => {
            let file = File::options().write(true).open(dir.join(WEIGHTS))?;
            file.set_len(rng.random_range(0..file.metadata()?.len()))?;
        }
        1 => fs::write(dir.join(CONFIG), "{")?,
        2 => fs::write(dir.join(CONFIG), "{}")?,
        3 => fs::remove_file(dir.join(WEIGHTS))?,
        4 => fs::write(dir.join(WEIGHTS), [0xff; 4096])?,
        _ => fs::write(dir.join(WEIGHTS), "version https://git-lfs.github.com/spec/v1\n")?,
    }
    Ok(())
}

fn delete_and_restore(soak: &Soak, adapter: &Versions) -> Result<(), Failure> {
    let (aside, version) = (adapter.dir.with_file_name(".deleted"), adapter.next());
    adapter.note(Installed::Gone);
    fs::rename(&adapter.dir, &aside)?;
    fs::remove_dir_all(&aside)?;
    soak.sleep(Duration::from_millis(500));
    copy(&adapter.pool[version], &aside)?;
    adapter.note(Installed::Version(version));
    fs::rename(&aside, &adapter.dir)?;
    Ok(())
}

/// Takes the adapter out of service, exchanges its folder, and puts it in service again.
fn withdraw_and_put(soak: &Soak, adapter: &Versions) -> Result<(), Failure> {
    let path = format!("/adapters/{}", adapter.name);
    adapter.note(Installed::Gone);
    tell(soak, "DELETE", &path, &json!({}))?;
    soak.sleep(Duration::from_millis(300));
    adapter.install_next()?;
    tell(soak, "PUT", &path, &json!({"path": adapter.name}))
}

/// Sends an update until it is accepted: under overload it may be refused.
fn tell(soak: &Soak, method: &str, path: &str, body: &serde_json::Value) -> Result<(), Failure> {
    let begun = Instant::now();
    for _ in 0..100 {
        match client::once(soak.address, &client::request(method, path, body), Duration::from_secs(30)) {
            Ok(Some((200 | 201 | 204, _))) => {
                soak.count(method);
                return Ok(());
            }
            // A folder that has just changed is not loaded yet.
            Ok(Some((429 | 503, _))) => soak.count(format!("{method} refused")),
            _ if soak.was_down(begun) => return Ok(()),
            Ok(Some((_, reply))) => {
                soak.fail(format!("{method} {path}: {reply}"));
                return Ok(());
            }
            other => {
                soak.fail(format!("{method} {path}: {other:?}"));
                return Ok(());
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    soak.fail(format!("{method} {path} was refused for {:?}", begun.elapsed()));
    Ok(())
}
