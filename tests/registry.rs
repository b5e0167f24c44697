//! The registry over a fake source. The size of an adapter's head is the number in its file.

mod folders;
mod loading;
mod memory;
mod orders;
mod updates;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use candle_core::{Device, Tensor};
use polyrank::adapter::{Adapter, AdapterError, AdapterInfo, AdapterWeights, Change, Files, NAMES, OpenFiles, Summary};
use polyrank::engine::Error;
use polyrank::params::{Delta, Input, Layout, Module};
use polyrank::registry::{Expected, FirstAdapters, Registry, RegistryError, Settings, Source, Status, Tier, Updates};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

/// A fake source that counts loads. `adapter_model.safetensors` holds the adapter's number of parameters as text. Words before the
/// number make it `slow` (until the gate opens), `denied` (until then), `panic`, `lost` (the device is lost), or `of:NAME` (of another base). Any other content is
/// malformed. What a file has beyond [`TOLD`] bytes is the number of parameters that it shows before it is read.
struct Counting {
    layout: Layout,
    loads: AtomicUsize,
    gate: (Mutex<bool>, Condvar),
    bases: Vec<String>,
}

const TOLD: u64 = 1000;

impl Counting {
    /// Lets slow adapters load.
    fn open_gate(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

impl Source for Counting {
    fn load(&self, files: &Files) -> Result<Adapter, Error> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let text = String::from_utf8(files.weights().to_vec()).unwrap();
        let (words, number) = text.trim().rsplit_once(' ').unwrap_or(("", text.trim()));
        let Ok(numbers) = number.parse::<usize>() else {
            return Err(no_number(files.weights_path(), &text).into());
        };
        match words {
            "denied" if !*self.gate.0.lock().unwrap() => {
                let source = std::io::ErrorKind::PermissionDenied.into();
                return Err(AdapterError::Io { file: files.weights_path().to_owned(), source }.into());
            }
            "slow" => drop(self.gate.1.wait_while(self.gate.0.lock().unwrap(), |open| !*open).unwrap()),
            "panic" => panic!("told to"),
            "lost" => {
                let [source, first] = ["an illegal address", "a copy"].map(|text| candle_core::Error::Msg(text.into()));
                return Err(Error::DeviceLost { source, first: Box::new(first.into()) });
            }
            _ => {}
        }
        // Of the two sites, the second has a delta of 4 parameters. The head has the other parameters.
        let random = |shape: (usize, usize)| Tensor::rand(-1f32, 1f32, shape, &Device::Cpu);
        let delta = Delta { a: random((1, 2))?, b: random((2, 1))?, scale: 1.0 };
        Ok(Adapter {
            info: AdapterInfo {
                labels: vec!["yes".into()],
                problem_type: None,
                base_fingerprint: None,
                base_model: words.strip_prefix("of:").map(str::to_owned),
            },
            weights: AdapterWeights {
                sites: vec![None, Some(Change::LowRank(delta))],
                head: BTreeMap::from([("classifier.weight".into(), random((1, numbers - 4))?)]),
            },
        })
    }

    fn summary(&self, dir: &Path) -> Result<Summary, AdapterError> {
        let file = dir.join(NAMES[1]);
        match fs::read_to_string(&file) {
            Ok(text) if !text.contains(|c: char| c.is_ascii_digit()) => Err(no_number(&file, &text)),
            // Nothing is known.
            read => Err(AdapterError::Io { file, source: read.err().unwrap_or(std::io::ErrorKind::Other.into()) }),
        }
    }

    fn least_bytes(&self, files: &OpenFiles) -> Result<usize, AdapterError> {
        Ok(files.size().checked_sub(TOLD).map_or(0, |parameters| 4 * parameters as usize))
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn base_names(&self) -> Vec<String> {
        self.bases.clone()
    }
}

/// The error for a weights file without a number.
fn no_number(file: &Path, text: &str) -> AdapterError {
    let (file, expected, found) = (file.to_owned(), "a number".into(), text.to_owned());
    AdapterError::WrongBase { file, expected, found, names: None }
}

/// A folder of adapters, and a registry over it with memory for `budget` parameters.
struct World {
    source: Arc<Counting>,
    registry: Arc<Registry>,
    root: PathBuf,
    folder: TempDir,
}

impl World {
    fn new(budget: usize, adapters: &[(&str, &str)]) -> Self {
        Self::with(budget, adapters, |_| {})
    }

    fn with(budget: usize, adapters: &[(&str, &str)], change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        for (name, model) in adapters {
            write(&root.join(name), model);
        }
        let source = Arc::new(source());
        let mut settings =
            Settings { budget: budget * 4, room_wait: Duration::from_millis(500), ..Settings::default() };
        change(&mut settings);
        let registry = Arc::new(Registry::open(source.clone(), &root, settings).unwrap());
        Self { source, registry, root, folder }
    }

    fn loads(&self) -> usize {
        self.source.loads.load(Ordering::SeqCst)
    }

    fn in_memory(&self) -> Vec<String> {
        let list = self.registry.list().unwrap().into_iter();
        list.filter(|status| status.tier == Tier::Memory).map(|status| status.name).collect()
    }

    /// The number of parameters of the version in service.
    fn parameters(&self, name: &str) -> usize {
        self.registry.get(name).unwrap().adapter().bytes() / 4
    }

    fn describe(&self, name: &str) -> Result<Status, RegistryError> {
        wait(self.registry.describe(name))
    }

    fn put(&self, name: &str, folder: &str, expected: Option<u64>) -> Result<Status, RegistryError> {
        wait(self.registry.put(name, Path::new(folder), expected.map(Expected::Generation)))
    }

    fn delete(&self, name: &str, expected: Option<u64>) -> Result<Status, RegistryError> {
        wait(self.registry.delete(name, expected.map(Expected::Generation)))
    }
}

fn source() -> Counting {
    let module = Module {
        name: "attention.self.query",
        label: "query",
        in_features: 2,
        out_features: 2,
        input: Input::Attention,
    };
    let layout = Layout {
        prefix: "bert",
        stack: "encoder.layer",
        layers: 2,
        modules: vec![module],
        other_linears: Vec::new(),
        tables: Vec::new(),
        head: Vec::new(),
        hidden: 2,
    };
    let gate = (Mutex::new(false), Condvar::new());
    Counting { layout, loads: AtomicUsize::new(0), gate, bases: vec!["org/base".into()] }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Waits until another thread makes a condition true.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn write(dir: &Path, model: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("adapter_config.json"), "{}").unwrap();
    fs::write(dir.join("config.json"), "{}").unwrap();
    fs::write(dir.join("adapter_model.safetensors"), padded(model)).unwrap();
}

/// All contents have one length.
fn padded(model: &str) -> String {
    format!("{model:<24}")
}

/// Replaces an adapter's folder as a whole.
fn replace(dir: &Path, model: &str) {
    let (new, old) = (dir.with_extension("new"), dir.with_extension("old"));
    write(&new, model);
    fs::rename(dir, &old).unwrap();
    fs::rename(&new, dir).unwrap();
    fs::remove_dir_all(old).unwrap();
}
