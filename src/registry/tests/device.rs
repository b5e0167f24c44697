//! A registry over an engine, on the CPU and on the GPU's form.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::*;
use crate::adapter::{AdapterError, Files};
use crate::engine::{Engine, Error, Row};
use crate::params::{Backend, Layout};
use crate::registry::{Registry, Source};
use crate::text::Limit;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/bert");

/// The versions that the names `a` and `b` have in turn.
const VERSIONS: [&str; 2] = ["ragged", "all_linear"];

fn engine(backend: Backend) -> Arc<Engine> {
    crate::cuda::run_on_host(polyrank_on_host::launch);
    Arc::new(Engine::open(Path::new(BASE), backend).unwrap())
}

fn copy(from: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(Path::new(BASE).join(from)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn logits(engine: &Engine, adapter: &Arc<Adapter>) -> Vec<u32> {
    let text = engine.encode("the film was great", None, &Limit::TRUNCATE).unwrap();
    let logits = engine.logits(&[Row { text, adapter: Arc::clone(adapter) }]).unwrap();
    logits[0].iter().map(|logit| logit.to_bits()).collect()
}

/// Two adapters are replaced and evicted while batches use them, in memory for little more than one of them.
#[test]
fn batches_finish_on_the_version_that_they_pinned() {
    for (backend, tier) in [(Backend::cpu(), Tier::Memory), (Backend::cuda_on_host(), Tier::Device)] {
        let (engine, root) = (engine(backend), tempfile::tempdir().unwrap());
        let versions = VERSIONS.map(|name| Arc::new(engine.load_adapter(&Path::new(BASE).join(name)).unwrap()));
        let expected = versions.each_ref().map(|adapter| (adapter.bytes(), logits(&engine, adapter)));
        assert!(expected[0].0 != expected[1].0 && expected[0].1 != expected[1].1);
        for name in ["a", "b", "ragged", "all_linear"] {
            copy(if name == "all_linear" { name } else { "ragged" }, &root.path().join(name));
        }
        let budget = expected[0].0.max(expected[1].0) * 3 / 2;
        let settings = Settings { budget, room_wait: Duration::from_secs(60), ..Settings::default() };
        let source = Arc::clone(&engine) as Arc<dyn Source>;
        let registry = Arc::new(Registry::open(source, root.path(), settings).unwrap());
        let (running, answered) = (AtomicUsize::new(2), Mutex::new([0; 2]));
        thread::scope(|scope| {
            for name in ["a", "b"] {
                let (engine, registry, running, answered, expected) =
                    (&engine, &registry, &running, &answered, &expected);
                scope.spawn(move || {
                    // A fast machine answers many times before the versions have changed often enough.
                    let mut answers = 0;
                    while answers < 30 || registry.counters().swaps <= 5 || registry.counters().evictions <= 5 {
                        answers += 1;
                        let pin = registry.get(name).unwrap();
                        let version = expected.iter().position(|version| version.0 == pin.adapter().bytes()).unwrap();
                        assert_eq!(logits(engine, pin.adapter()), expected[version].1, "{name}");
                        answered.lock().unwrap()[version] += 1;
                    }
                    running.fetch_sub(1, Ordering::SeqCst);
                });
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for i in 0.. {
                if running.load(Ordering::SeqCst) == 0 {
                    break;
                }
                let (name, folder) = (["a", "b"][i % 2], VERSIONS[i / 2 % 2]);
                runtime.block_on(registry.put(name, Path::new(folder), None)).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let (counters, answered) = (registry.counters(), answered.into_inner().unwrap());
        assert!(counters.swaps > 5 && counters.evictions > 5, "{counters:?}");
        assert!(answered.iter().all(|&count| count > 0), "{answered:?}");
        assert!(registry.bytes() <= budget);
        let pin = registry.get("a").unwrap();
        let statuses = registry.statuses();
        assert_eq!(statuses.iter().find(|status| status.name == "a").map(|status| status.tier), Some(tier));
        assert_eq!(statuses.iter().find(|status| status.name == "a").unwrap().bytes, Some(pin.adapter().bytes()));
    }
}

/// A device whose memory is full at first.
struct Full {
    engine: Arc<Engine>,
    full: AtomicBool,
}

impl Source for Full {
    fn load(&self, files: &Files) -> Result<Adapter, Error> {
        if self.full.swap(false, Ordering::SeqCst) {
            return Err(AdapterError::DeviceMemory { needed: 100, free: 10 }.into());
        }
        self.engine.load(files)
    }

    fn layout(&self) -> &Layout {
        Source::layout(&*self.engine)
    }
}

#[test]
fn full_device_is_told_with_its_numbers_and_tried_again() {
    let source = Full { engine: engine(Backend::cuda_on_host()), full: AtomicBool::new(true) };
    let registry = Registry::new(Arc::new(source), Path::new(BASE), usize::MAX).unwrap();
    let error = registry.get("ragged").unwrap_err();
    assert!(
        matches!(&error, RegistryError::DeviceMemory { name, needed: 100, free: 10 } if name == "ragged"),
        "{error}"
    );
    assert_eq!(registry.counters().failed_loads, 0, "memory that is in use is no fault of an adapter");
    assert!(registry.get("ragged").is_ok());
}
