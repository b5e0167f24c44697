//! Prepacked weights in the cache folder, which are memory-mapped: processes share their pages, and a start takes milliseconds.
//!
//! A file `prepacked/DIGEST-PRECISION.safetensors` is a safetensors file of words (`U32`) with one tensor for each linear. The
//! digest is that of all weights that were packed. The header holds a checksum of each tensor, which is verified when a process
//! maps the file. A file that does not match the request is written again.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::digest::hex;
use super::files::sweep;
use super::weights::{Prepack, map};
use super::{Base, ModelError};
use crate::atomic_file;
use crate::params::{Layout, Precision, Prepacked, Words};

/// The version of the format of panels. Files of other versions are written again.
const VERSION: &str = "3";

/// The alignment of the first word: a cache line.
const ALIGNMENT: usize = 64;

/// A weight to prepack: its name, `[out, in]`, and the precision of its products.
struct Wanted {
    name: String,
    shape: [usize; 2],
    precision: Precision,
}

/// The linears at the sites of `layout`, prepacked in `precision`, and the base's other linears, prepacked in f32. They are mapped
/// from a file in the folder `cache`, which is written first if it is missing. Without a folder, or if the file cannot be written,
/// they are kept in memory.
///
/// # Errors
/// If weights are missing or have the wrong shape.
pub(crate) fn prepack(
    base: &Base,
    layout: &Layout,
    precision: Precision,
    cache: Option<&Path>,
) -> Result<Prepack, ModelError> {
    let wanted = wanted(base, layout, precision);
    let Some(cache) = cache else { return in_memory(base, &wanted) };
    let path = file(cache, base, layout, precision);
    if let Some(found) = open(&path, &wanted) {
        return Ok(found);
    }
    match write(&path, base, &wanted, precision)? {
        Ok(()) => match open(&path, &wanted) {
            Some(written) => Ok(written),
            None => in_memory(base, &wanted),
        },
        Err(error) => {
            tracing::warn!("{}: {error}; prepacked weights are kept in memory", path.display());
            in_memory(base, &wanted)
        }
    }
}

fn wanted(base: &Base, layout: &Layout, precision: Precision) -> Vec<Wanted> {
    let name = |linear: &str| format!("{linear}.weight");
    let site = |site| {
        let module = layout.module(site);
        Wanted { name: name(&layout.name(site)), shape: [module.out_features, module.in_features], precision }
    };
    // A base may lack these linears; their shapes are known only from its weights.
    let other = |linear: &String| {
        let &[out, width] = &base.weights.find(&name(linear))?.shape[..] else { return None };
        let shape = [out, width];
        Some(Wanted { name: name(linear), shape, precision: Precision::F32 })
    };
    layout.sites().map(site).chain(layout.other_linears.iter().filter_map(other)).collect()
}

fn file(cache: &Path, base: &Base, layout: &Layout, precision: Precision) -> PathBuf {
    // The fingerprint covers the linears at sites. Poolers and similar linears are packed too, but bases with the same fingerprint
    // may differ in them, so their digest is added.
    let others: Vec<String> = layout.other_linears.iter().map(|linear| format!("{linear}.weight")).collect();
    let others = base.weights.digest(others.iter().map(String::as_str));
    let digest = hex(&Sha256::digest(format!("{} {others}", base.fingerprint())));
    cache.join("prepacked").join(format!("{digest}-{precision}.safetensors"))
}

fn pack(base: &Base, Wanted { name, shape: [out, width], precision }: &Wanted) -> Result<Prepacked, ModelError> {
    let weight = base.weights.parameter(name, &[*out, *width])?;
    Ok(Prepacked::new(weight.slice().unwrap_or_default(), *out, *width, *precision))
}

fn in_memory(base: &Base, wanted: &[Wanted]) -> Result<Prepack, ModelError> {
    wanted.iter().map(|wanted| Ok((wanted.name.clone(), pack(base, wanted)?))).collect()
}

/// The weights in the file at `path`, if it has all `wanted` ones and is undamaged.
fn open(path: &Path, wanted: &[Wanted]) -> Option<Prepack> {
    let file = File::open(path).ok()?;
    // The checksums read the whole file through a mapping of their own, so that pages which no request needs do not stay resident.
    let (kept, passing) = (Arc::new(map(&file).ok()?), map(&file).ok()?);
    let found = contents(&kept, &passing, wanted);
    if found.is_none() {
        tracing::warn!(
            "{}: the prepacked weights have another version or are damaged; writing them again",
            path.display()
        );
    }
    found
}

/// The `wanted` weights in the mapping `kept`, if the checksums of the same bytes in `passing` are right.
fn contents(kept: &Arc<Mmap>, passing: &Mmap, wanted: &[Wanted]) -> Option<Prepack> {
    let (length, metadata) = SafeTensors::read_metadata(passing).ok()?;
    let entries = metadata.metadata().as_ref()?;
    if entries.get("version").map(String::as_str) != Some(VERSION) {
        return None;
    }
    let start = size_of::<u64>() + length;
    let find = |Wanted { name, shape: [out, width], precision }: &Wanted| {
        let info = metadata.info(name).filter(|info| info.dtype == Dtype::U32)?;
        let (from, to) = info.data_offsets;
        let found = checksum(crc32fast::hash(passing.get(start + from..start + to)?));
        if entries.get(&checksum_key(name)) != Some(&found) {
            return None;
        }
        let words = Words::mapped(Arc::clone(kept), start + from, (to - from) / size_of::<u32>())?;
        Some((name.clone(), Prepacked::from_words(words, *out, *width, *precision)?))
    };
    wanted.par_iter().map(find).collect()
}

/// The key of the checksum of the weight `name`.
fn checksum_key(name: &str) -> String {
    format!("crc32 {name}")
}

/// A checksum as text. Its length is the same for every value, so that the header does not grow when it is filled in.
fn checksum(value: u32) -> String {
    format!("{value:08x}")
}

/// Writes the file atomically, one weight at a time. The outer error is about the base, the inner one about the file.
fn write(path: &Path, base: &Base, wanted: &[Wanted], precision: Precision) -> Result<io::Result<()>, ModelError> {
    let mut checksums = vec![0; wanted.len()];
    let head = header(wanted, &checksums, precision);
    let begin = || -> io::Result<_> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        sweep(folder);
        let mut file = BufWriter::new(atomic_file::begin(path)?);
        file.write_all(&(head.len() as u64).to_le_bytes())?;
        file.write_all(head.as_bytes())?;
        Ok(file)
    };
    let mut file = match begin() {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    for (wanted, checksum) in wanted.iter().zip(&mut checksums) {
        let packed = pack(base, wanted)?;
        let bytes = bytemuck::cast_slice(packed.words());
        if let Err(error) = file.write_all(bytes) {
            return Ok(Err(error));
        }
        *checksum = crc32fast::hash(bytes);
    }
    let end = || {
        // The checksums are known only now. The new header has the same length.
        file.seek(io::SeekFrom::Start(size_of::<u64>() as u64))?;
        file.write_all(header(wanted, &checksums, precision).as_bytes())?;
        atomic_file::publish(file.into_inner().map_err(io::IntoInnerError::into_error)?, path)
    };
    Ok(end())
}

/// A safetensors header, padded with spaces so that the words after it are aligned.
fn header(wanted: &[Wanted], checksums: &[u32], precision: Precision) -> String {
    let mut entries = Map::new();
    let mut about = Map::new();
    about.insert("version".to_owned(), json!(VERSION));
    about.insert("precision".to_owned(), json!(precision.name()));
    about.extend(
        wanted.iter().zip(checksums).map(|(wanted, &value)| (checksum_key(&wanted.name), json!(checksum(value)))),
    );
    entries.insert("__metadata__".to_owned(), Value::Object(about));
    let mut start = 0;
    for Wanted { name, shape: [out, width], precision } in wanted {
        let words = Prepacked::len(*out, *width, *precision);
        let end = start + words * size_of::<u32>();
        entries.insert(name.clone(), json!({"dtype": "U32", "shape": [words], "data_offsets": [start, end]}));
        start = end;
    }
    let mut header = Value::Object(entries).to_string();
    let length = (size_of::<u64>() + header.len()).next_multiple_of(ALIGNMENT) - size_of::<u64>();
    header.push_str(&" ".repeat(length - header.len()));
    header
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::MetadataExt;

    use candle_core::Device;

    use super::*;
    use crate::base::layout;

    fn base(cache: &Path) -> (Base, Layout) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bert");
        let base = Base::open(&dir).unwrap().cached(Some(cache.to_owned()));
        let layout = layout(&base.config).unwrap();
        (base, layout)
    }

    fn words(prepack: &Prepack) -> Vec<(&String, &[u32])> {
        prepack.iter().map(|(name, weight)| (name, weight.words())).collect()
    }

    #[test]
    fn writes_the_file_once_and_maps_it() {
        let cache = tempfile::tempdir().unwrap();
        let (base, layout) = base(cache.path());
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let path = file(cache.path(), &base, &layout, precision);
            let expected = prepack(&base, &layout, precision, None).unwrap();
            // The pooler is packed too.
            assert_eq!(expected.len(), layout.len() + 1);
            let made = prepack(&base, &layout, precision, Some(cache.path())).unwrap();
            let inode = fs::metadata(&path).unwrap().ino();
            let again = prepack(&base, &layout, precision, Some(cache.path())).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "{precision} was written again");
            assert!(words(&made) == words(&expected) && words(&again) == words(&expected), "{precision}");
            let first = again.values().next().unwrap().words().as_ptr() as usize;
            assert!(first.is_multiple_of(ALIGNMENT), "{precision} is not aligned");
        }
    }

    /// Other users of the cache must be able to map the file.
    #[test]
    fn file_mode_follows_the_umask() {
        let cache = tempfile::tempdir().unwrap();
        let (base, layout) = base(cache.path());
        prepack(&base, &layout, Precision::Int8, Some(cache.path())).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let plain = cache.path().join("plain");
        fs::write(&plain, "").unwrap();
        assert_eq!(mode(&file(cache.path(), &base, &layout, Precision::Int8)), mode(&plain));
    }

    /// Bases that differ only in the pooler have the same fingerprint, but must not share the pooler's packed weight.
    #[test]
    fn bases_with_different_poolers_do_not_share_files() {
        const POOLER: &str = "bert.pooler.dense.weight";
        let (cache, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, layout) = base(cache.path());
        fs::copy(first.dir.join("config.json"), dir.path().join("config.json")).unwrap();
        let mut tensors = candle_core::safetensors::load(first.dir.join("model.safetensors"), &Device::Cpu).unwrap();
        let doubled = (&tensors[POOLER] * 2.0).unwrap();
        tensors.insert(POOLER.to_owned(), doubled);
        candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
        let second = Base::open(dir.path()).unwrap().cached(Some(cache.path().to_owned()));
        assert_eq!(first.fingerprint(), second.fingerprint());
        for precision in [Precision::F32, Precision::Int8] {
            let packed = [&first, &second].map(|base| prepack(base, &layout, precision, Some(cache.path())).unwrap());
            for (packed, base) in packed.iter().zip([&first, &second]) {
                assert_eq!(words(packed), words(&prepack(base, &layout, precision, None).unwrap()));
            }
            let [one, other] = packed;
            for (name, weight) in one {
                assert_eq!(weight.words() == other[&name].words(), name != POOLER, "{name}");
            }
        }
    }

    /// A file that does not match is replaced, and the weights returned are right.
    #[test]
    fn rewrites_files_that_do_not_match() {
        let cache = tempfile::tempdir().unwrap();
        let (base, layout) = base(cache.path());
        let path = file(cache.path(), &base, &layout, Precision::Int8);
        let expected = prepack(&base, &layout, Precision::Int8, Some(cache.path())).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut other = whole.clone();
        let version = format!("\"version\":\"{VERSION}\"");
        let version = whole.windows(version.len()).position(|bytes| bytes == version.as_bytes()).unwrap();
        other[version + 11] = b'0';
        for wrong in [&whole[..whole.len() - 4], &whole[..100], &[][..], &other] {
            fs::remove_file(&path).unwrap();
            fs::write(&path, wrong).unwrap();
            let made = prepack(&base, &layout, Precision::Int8, Some(cache.path())).unwrap();
            assert_eq!(words(&made), words(&expected));
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    /// A bit that flips on disk never changes the weights: the file is written again, unless nothing reads the byte.
    #[test]
    fn detects_flipped_bits() {
        let cache = tempfile::tempdir().unwrap();
        let (base, layout) = base(cache.path());
        let path = file(cache.path(), &base, &layout, Precision::Int8);
        let expected = prepack(&base, &layout, Precision::Int8, Some(cache.path())).unwrap();
        let whole = fs::read(&path).unwrap();
        let start = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        // Every byte of the header, and some of every weight.
        for at in (0..start).step_by(3).chain((start..whole.len()).step_by(997)).chain([whole.len() - 1]) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::remove_file(&path).unwrap();
            fs::write(&path, &flipped).unwrap();
            let made = prepack(&base, &layout, Precision::Int8, Some(cache.path())).unwrap();
            assert!(words(&made) == words(&expected), "byte {at}");
            assert!(at < start || fs::read(&path).unwrap() == whole, "byte {at} was not repaired");
        }
    }

    #[test]
    fn keeps_weights_in_memory_if_the_cache_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("a file");
        fs::write(&cache, "").unwrap();
        let (base, layout) = base(&cache);
        let held = prepack(&base, &layout, Precision::Bf16, Some(&cache)).unwrap();
        assert_eq!(words(&held), words(&prepack(&base, &layout, Precision::Bf16, None).unwrap()));
    }

    #[test]
    fn fingerprints_are_cached_until_the_file_changes() {
        let (cache, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bert");
        for name in ["config.json", "model.safetensors"] {
            fs::copy(golden.join(name), dir.path().join(name)).unwrap();
        }
        let open = || Base::open(dir.path()).unwrap().cached(Some(cache.path().to_owned()));
        let first = open().fingerprint().to_owned();
        assert_eq!(first, Base::open(&golden).unwrap().fingerprint());
        let known: Vec<_> = fs::read_dir(cache.path().join("fingerprints")).unwrap().collect();
        assert_eq!(known.len(), 1);
        // The cached fingerprint is returned as it is: nothing is hashed again.
        let remembered = format!("sha256:{}", "0".repeat(64));
        fs::write(known[0].as_ref().unwrap().path(), &remembered).unwrap();
        assert_eq!(open().fingerprint(), remembered);
        for wrong in ["", "sha256:", "sha256:remembered", &remembered[1..]] {
            fs::write(known[0].as_ref().unwrap().path(), wrong).unwrap();
            assert_eq!(open().fingerprint(), first, "{wrong:?} is not a fingerprint");
        }
        // Other weights with the same size and time, as from a copy that keeps times.
        let weights = dir.path().join("model.safetensors");
        let time = fs::metadata(&weights).unwrap().modified().unwrap();
        let mut bytes = fs::read(&weights).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let beside = dir.path().join("beside");
        fs::write(&beside, bytes).unwrap();
        fs::File::options().write(true).open(&beside).unwrap().set_modified(time).unwrap();
        fs::rename(&beside, &weights).unwrap();
        let changed = open().fingerprint().to_owned();
        assert!(changed != first && changed != remembered);
    }
}
