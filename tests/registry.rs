//! The registry over a fake source. The size of an adapter's head is the number in its file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use candle_core::{Device, Tensor};
use polyrank::adapter::{Adapter, AdapterError, AdapterInfo, AdapterWeights, Change, Files};
use polyrank::engine::Error;
use polyrank::params::{Delta, Input, Layout, Module};
use polyrank::registry::{Expected, Registry, RegistryError, Settings, Source, Status, Tier, Updates};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

/// A fake source that counts loads. `adapter_model.safetensors` holds the adapter's number of parameters as text. Words before the
/// number make it `slow` (until the gate opens), `panic`, or `of:NAME` (of another base). Any other content is malformed.
struct Counting {
    layout: Layout,
    loads: AtomicUsize,
    gate: (Mutex<bool>, Condvar),
    bases: Vec<String>,
}

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
            let (file, expected, found) = (files.weights_path().to_owned(), "a number".into(), text);
            return Err(AdapterError::WrongBase { file, expected, found, names: None }.into());
        };
        match words {
            "slow" => drop(self.gate.1.wait_while(self.gate.0.lock().unwrap(), |open| !*open).unwrap()),
            "panic" => panic!("told to"),
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

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn base_names(&self) -> Vec<String> {
        self.bases.clone()
    }
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

#[test]
fn concurrent_requests_load_once() {
    let world = World::new(100, &[("a", "10"), ("b", "20")]);
    let barrier = Barrier::new(16);
    let loaded: Vec<_> = thread::scope(|scope| {
        let get = |name: &'static str| {
            let (barrier, registry) = (&barrier, &world.registry);
            scope.spawn(move || {
                barrier.wait();
                registry.get(name).unwrap()
            })
        };
        let threads: Vec<_> = (0..16).map(|i| get(if i % 2 == 0 { "a" } else { "b" })).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(world.loads(), 2);
    assert!(loaded.iter().skip(2).zip(&loaded).all(|(later, earlier)| Arc::ptr_eq(later.adapter(), earlier.adapter())));
    assert_eq!((world.registry.bytes(), world.registry.resident()), (120, 2));
}

#[test]
fn evicts_the_least_recently_used() {
    let world = World::new(30, &[("a", "10"), ("b", "10"), ("c", "10"), ("d", "15")]);
    for name in ["a", "b", "c", "a"] {
        world.registry.get(name).unwrap();
    }
    world.registry.get("d").unwrap();
    assert_eq!(world.in_memory(), ["a", "d"]);
    assert_eq!(world.registry.bytes(), 4 * 25);
    world.registry.get("b").unwrap();
    assert_eq!(world.in_memory(), ["b", "d"]);
    assert_eq!(world.loads(), 5);
}

#[test]
fn never_evicts_pinned_adapters() {
    let world = World::new(30, &[("a", "10"), ("b", "10"), ("c", "10"), ("d", "15")]);
    let a = world.registry.get("a").unwrap();
    // A clone of a pin is a pin too.
    let b = world.registry.get("b").unwrap().clone();
    world.registry.get("c").unwrap();
    let error = world.registry.get("d").unwrap_err();
    assert!(matches!(error, RegistryError::Busy { bytes: 60, held: 80, budget: 120, .. }), "{error:?}");
    assert_eq!(world.in_memory(), ["a", "b", "c"], "nothing is evicted if that would not make enough room");
    drop(b);
    world.registry.get("d").unwrap();
    assert_eq!(world.in_memory(), ["a", "d"]);
    assert!(Arc::ptr_eq(a.adapter(), world.registry.get("a").unwrap().adapter()));
}

#[test]
fn refuses_adapter_larger_than_the_budget() {
    let world = World::new(12, &[("a", "10"), ("large", "13")]);
    world.registry.get("a").unwrap();
    let error = world.registry.get("large").unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { bytes: 52, budget: 48, .. }), "{error:?}");
    assert_eq!(world.in_memory(), ["a"]);
}

#[test]
fn changed_folder_is_swapped_in_beside_the_old_version() {
    let world = World::new(100, &[("a", "10")]);
    let old = world.registry.get("a").unwrap();
    let began = Instant::now();
    replace(&world.root.join("a"), "12");
    wait_until("the new version is served", || world.parameters("a") == 12);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let new = world.registry.get("a").unwrap();
    assert!(new.generation() > old.generation());
    assert_eq!((old.adapter().bytes(), old.generation()), (40, 1), "a pin keeps the old version");
    assert_eq!((world.registry.bytes(), world.registry.resident()), (88, 2), "both versions count");
    drop(old);
    assert_eq!((world.registry.bytes(), world.registry.resident()), (48, 1));
    let counters = world.registry.counters();
    assert_eq!((counters.loads, counters.swaps, counters.evictions, counters.refused_updates), (2, 1, 0, 0));
}

/// Sizes and times are equal, as with copies that preserve times, and in layers of container images.
#[cfg(unix)]
#[test]
fn change_of_equal_size_and_time_is_noticed() {
    let time = SystemTime::now() - Duration::from_secs(100);
    let set = |dir: &Path, model: &str| {
        write(dir, model);
        for file in dir.read_dir().unwrap() {
            fs::File::options().write(true).open(file.unwrap().path()).unwrap().set_modified(time).unwrap();
        }
    };
    let world = World::new(20, &[]);
    let dir = world.root.join("a");
    set(&dir, "10");
    assert_eq!((world.parameters("a"), world.registry.get("a").unwrap().generation()), (10, 1));
    set(&dir, "11");
    wait_until("the new version is served", || world.parameters("a") == 11);
    // The same once it has been evicted, and with a request to load it.
    write(&world.root.join("b"), "20");
    world.registry.get("b").unwrap();
    assert_eq!(world.in_memory(), ["b"]);
    set(&dir, "12");
    assert_eq!((world.parameters("a"), world.registry.get("a").unwrap().generation()), (12, 4));
    set(&dir, "13");
    assert_eq!(world.put("a", "a", None).unwrap().bytes, Some(52));
}

#[test]
fn files_written_again_are_the_same_version() {
    let world = World::new(20, &[("a", "10"), ("b", "20")]);
    world.registry.get("a").unwrap();
    let wait_for_look = || thread::sleep(Duration::from_millis(800));
    replace(&world.root.join("a"), "10");
    wait_for_look();
    assert_eq!(world.registry.get("a").unwrap().generation(), 1);
    assert_eq!((world.loads(), world.registry.counters().swaps), (1, 0));
    world.registry.get("b").unwrap();
    replace(&world.root.join("a"), "10");
    assert_eq!(world.registry.get("a").unwrap().generation(), 1, "also after an eviction");
}

#[test]
fn broken_update_is_refused_once_and_the_old_version_serves() {
    let world = World::new(100, &[("a", "10")]);
    world.registry.get("a").unwrap();
    replace(&world.root.join("a"), "nonsense");
    wait_until("the update is refused", || world.describe("a").unwrap().problem.is_some());
    let status = world.describe("a").unwrap();
    let problem = status.problem.unwrap();
    assert!(problem.contains("nonsense") && !problem.contains(&world.root.display().to_string()), "{problem}");
    assert_eq!((status.generation, world.parameters("a")), (Some(1), 10));
    for _ in 0..20 {
        assert_eq!(world.parameters("a"), 10);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((world.loads(), world.registry.counters().refused_updates), (2, 1), "it is read once");
    // Too large for the budget is another reason.
    replace(&world.root.join("a"), "101");
    wait_until("it is refused", || {
        world.describe("a").unwrap().problem.is_some_and(|problem| problem.contains("404 bytes"))
    });
    replace(&world.root.join("a"), "12");
    wait_until("the repaired version is served", || world.parameters("a") == 12);
    assert_eq!(world.describe("a").unwrap().problem, None);
    // The version in service again is no problem any more.
    replace(&world.root.join("a"), "nonsense");
    wait_until("it is refused", || world.describe("a").unwrap().problem.is_some());
    replace(&world.root.join("a"), "12");
    wait_until("the problem is gone", || world.describe("a").unwrap().problem.is_none());
    assert_eq!(world.describe("a").unwrap().generation, Some(2));
}

#[test]
fn update_without_weights_is_refused_and_an_added_file_is_an_update() {
    let world = World::new(100, &[("a", "10"), ("b", "10")]);
    let (a, b) = (world.registry.get("a").unwrap(), world.registry.get("b").unwrap());
    fs::remove_file(world.root.join("a/adapter_model.safetensors")).unwrap();
    fs::write(world.root.join("b/config.json"), "{\"a\": 1}").unwrap();
    wait_until("a is refused", || world.describe("a").unwrap().problem.is_some());
    assert_eq!(world.registry.get("a").unwrap().generation(), a.generation());
    wait_until("b is swapped", || world.registry.get("b").unwrap().generation() > b.generation());
}

#[test]
fn folder_that_changes_is_not_loaded() {
    let world = World::new(100, &[("a", "10")]);
    let file = world.root.join("a/adapter_model.safetensors");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fs::write(&file, padded("10")).unwrap();
                thread::sleep(Duration::from_millis(10));
            }
        });
        let error = world.registry.get("a").unwrap_err();
        done.store(true, Ordering::Relaxed);
        assert!(matches!(&error, RegistryError::Changing { name } if name == "a"), "{error:?}");
    });
    assert_eq!(world.loads(), 0);
    assert_eq!(world.parameters("a"), 10);
}

/// The weights come last, or only in part. A safetensors file says how long it is.
#[test]
fn folder_that_is_half_copied_is_not_loaded() {
    let world = World::new(100, &[("a", "10"), ("b", "10")]);
    let [a, b] = ["a", "b"].map(|name| world.root.join(name).join("adapter_model.safetensors"));
    fs::remove_file(&a).unwrap();
    let header = br#"{"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}"#;
    let whole = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat();
    fs::write(&b, &whole[..whole.len() - 1]).unwrap();
    for name in ["a", "b"] {
        let error = world.registry.get(name).unwrap_err();
        assert!(matches!(error, RegistryError::Changing { .. }), "{error:?}");
    }
    // Nobody copies them any more.
    wait_until("they are invalid", || {
        ["a", "b"].iter().all(|name| matches!(world.registry.get(name), Err(RegistryError::Invalid { .. })))
    });
}

#[cfg(unix)]
#[test]
fn moved_links_are_followed() {
    let link = |target: &Path, link: &Path| {
        let new = link.with_file_name(".next");
        std::os::unix::fs::symlink(target, &new).unwrap();
        fs::rename(new, link).unwrap();
    };
    // The link of an adapter, as in the volume of a ConfigMap.
    let world = World::new(100, &[]);
    for (version, model) in [("..1", "10"), ("..2", "11")] {
        write(&world.root.join(version).join("live"), model);
    }
    link(Path::new("..1"), &world.root.join("..data"));
    link(Path::new("..data/live"), &world.root.join("live"));
    assert_eq!(world.parameters("live"), 10);
    let names = || world.registry.list().unwrap().into_iter().map(|status| status.name).collect::<Vec<_>>();
    assert_eq!(names(), ["live"], "hidden folders are no adapters");
    assert!(matches!(world.registry.get("..1/live"), Err(RegistryError::NotFound { .. })));
    link(Path::new("..2"), &world.root.join("..data"));
    wait_until("the new version is served", || world.parameters("live") == 11);

    // Each file may be a link, where the volume is the adapter's own folder.
    let dir = world.root.join("mounted");
    for (version, model) in [("..1", "20"), ("..2", "21")] {
        write(&dir.join(version), model);
    }
    link(Path::new("..1"), &dir.join("..data"));
    for file in ["adapter_config.json", "adapter_model.safetensors", "config.json"] {
        link(&Path::new("..data").join(file), &dir.join(file));
    }
    assert_eq!(world.parameters("mounted"), 20);
    link(Path::new("..2"), &dir.join("..data"));
    wait_until("the new version is served", || world.parameters("mounted") == 21);
    assert_eq!(names(), ["live", "mounted"]);

    // The adapters' folder itself, as with releases.
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|release| folder.path().join(release));
    write(&one.join("a"), "10");
    write(&two.join("a"), "11");
    write(&two.join("new"), "12");
    let root = folder.path().join("current");
    link(&one, &root);
    let registry = Registry::new(Arc::new(source()), &root, 400).unwrap();
    let bytes = |name: &str| registry.get(name).map(|pin| pin.adapter().bytes()).ok();
    assert_eq!((bytes("a"), bytes("new")), (Some(40), None));
    link(&two, &root);
    wait_until("the new release is served", || bytes("a") == Some(44));
    assert_eq!(bytes("new"), Some(48));
    fs::remove_dir_all(&one).unwrap();
    assert_eq!(bytes("a"), Some(44));
}

#[test]
fn adapter_whose_folder_is_gone_is_unknown() {
    let world = World::new(100, &[("a", "10")]);
    let pin = world.registry.get("a").unwrap();
    fs::remove_dir_all(world.root.join("a")).unwrap();
    wait_until("it is unknown", || matches!(world.registry.get("a"), Err(RegistryError::NotFound { .. })));
    assert_eq!((pin.adapter().bytes(), world.registry.bytes()), (40, 40));
    drop(pin);
    assert_eq!((world.registry.bytes(), world.registry.statuses()), (0, Vec::new()));
    write(&world.root.join("a"), "12");
    assert_eq!(world.parameters("a"), 12);
}

#[test]
fn adapters_folder_that_is_gone_is_an_error_until_it_is_back() {
    let world = World::new(100, &[("a", "10"), ("b", "10")]);
    world.registry.get("a").unwrap();
    assert!(world.registry.ready().is_ok());
    let away = world.folder.path().join("away");
    fs::rename(&world.root, &away).unwrap();
    wait_until("it is noticed", || world.registry.ready().is_err());
    for name in ["a", "b", "nobody"] {
        let error = world.registry.get(name).unwrap_err();
        assert!(matches!(error, RegistryError::RootGone), "{name}: {error:?}");
    }
    assert!(world.registry.pinned("a").is_none() && world.registry.list().is_err());
    fs::rename(&away, &world.root).unwrap();
    wait_until("it is back", || world.registry.ready().is_ok());
    assert_eq!(world.registry.get("a").unwrap().generation(), 1);
    assert_eq!((world.registry.counters().refused_updates, world.parameters("b")), (0, 10));
}

#[test]
fn put_loads_and_swaps_and_delete_removes() {
    let world = World::with(100, &[("a", "10"), ("store/next", "12"), ("bad", "x")], |settings| {
        settings.updates = Updates::Manual;
    });
    let first = world.put("a", "a", None).unwrap();
    assert_eq!((first.generation, first.bytes, first.tier), (Some(1), Some(40), Tier::Memory));
    assert_eq!(world.put("a", "a", Some(1)).unwrap().generation, Some(1), "the same files are the same version");
    let second = world.put("a", "store/next", Some(1)).unwrap();
    assert_eq!((second.generation, second.bytes), (Some(2), Some(48)));
    // What fails changes nothing.
    let lost = world.put("a", "a", Some(1)).unwrap_err();
    assert!(matches!(lost, RegistryError::Stale { found: Some(2), .. }), "{lost:?}");
    let lost = world.put("new", "a", Some(1)).unwrap_err();
    assert!(matches!(lost, RegistryError::Stale { found: None, .. }), "{lost:?}");
    assert!(matches!(world.put("a", "bad", None), Err(RegistryError::Invalid { .. })));
    assert!(matches!(world.put("a", "nowhere", None), Err(RegistryError::NotFound { .. })));
    for outside in ["..", "../root", ".", "store/../.."] {
        let error = world.put("a", outside, None).unwrap_err();
        let refused = matches!(error, RegistryError::OutsideRoot { .. } | RegistryError::NotFound { .. });
        assert!(refused, "{outside}: {error:?}");
    }
    assert_eq!(world.registry.get("a").unwrap().generation(), 2);

    let pin = world.registry.get("a").unwrap();
    assert!(matches!(world.delete("a", Some(1)), Err(RegistryError::Stale { .. })));
    assert_eq!(world.delete("a", Some(2)).unwrap().generation, Some(2));
    assert!(matches!(world.registry.get("a"), Err(RegistryError::NotFound { .. })));
    assert!(matches!(world.describe("a"), Err(RegistryError::NotFound { .. })));
    assert!(world.registry.list().unwrap().iter().all(|status| status.name != "a"));
    assert_eq!(pin.adapter().bytes(), 48, "requests that run finish");
    assert!(matches!(world.delete("nobody", None), Err(RegistryError::NotFound { .. })));
    // An adapter that was never loaded is removed as well, and a PUT brings it back.
    world.delete("bad", None).unwrap();
    assert!(matches!(world.registry.get("bad"), Err(RegistryError::NotFound { .. })));
    write(&world.root.join("bad"), "14");
    assert!(matches!(world.registry.get("bad"), Err(RegistryError::NotFound { .. })));
    assert_eq!(world.put("bad", "bad", None).unwrap().bytes, Some(56));
    assert_eq!(world.put("a", "a", None).unwrap().bytes, Some(40));
}

/// Of many that expect the same generation, one wins.
#[test]
fn puts_race_for_a_generation() {
    let world = World::new(1000, &[("a", "10")]);
    for i in 0..8 {
        write(&world.root.join(format!("v{i}")), &format!("{}", 20 + i));
    }
    let generation = world.registry.get("a").unwrap().generation();
    let results: Vec<_> = thread::scope(|scope| {
        let put = |i: usize| {
            let world = &world;
            scope.spawn(move || world.put("a", &format!("v{i}"), Some(generation)))
        };
        let threads: Vec<_> = (0..8).map(put).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let won: Vec<_> = results.iter().flatten().collect();
    assert_eq!(won.len(), 1);
    assert!(results.iter().flat_map(|result| result.as_ref().err()).all(|e| matches!(e, RegistryError::Stale { .. })));
    let pin = world.registry.get("a").unwrap();
    assert_eq!((Some(pin.generation()), Some(pin.adapter().bytes())), (won[0].generation, won[0].bytes));
}

#[test]
fn manual_updates_wait_for_a_put() {
    let world = World::with(20, &[("a", "10"), ("b", "20")], |settings| settings.updates = Updates::Manual);
    world.registry.get("a").unwrap();
    replace(&world.root.join("a"), "12");
    wait_until("the change is told", || world.describe("a").unwrap().problem.is_some());
    assert_eq!((world.parameters("a"), world.registry.counters().refused_updates), (10, 0));
    world.registry.get("b").unwrap();
    assert!(matches!(world.registry.get("a"), Err(RegistryError::Changed { .. })), "it cannot be read again");
    assert_eq!(world.put("a", "a", None).unwrap().generation, Some(3));
    assert_eq!((world.parameters("a"), world.describe("a").unwrap().problem), (12, None));
}

#[test]
fn slow_adapter_holds_up_no_other() {
    let world = World::new(1000, &[("a", "10"), ("b", "11"), ("slow", "slow 10")]);
    world.registry.get("a").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut waiting: Vec<_> = (0..600).map(|_| Box::pin(world.registry.pin("slow"))).collect();
        for wait in &mut waiting {
            let soon = tokio::time::timeout(Duration::from_millis(1), wait).await;
            assert!(soon.is_err(), "{soon:?}");
        }
        assert_eq!((world.parameters("a"), world.loads()), (10, 2), "one load for all");
        // Later requests do not wait for what is too slow.
        let began = Instant::now();
        let error = loop {
            let asked = tokio::time::timeout(Duration::from_millis(20), world.registry.pin("slow")).await;
            if let Ok(Err(error)) = asked {
                break error;
            }
            assert!(began.elapsed() < Duration::from_secs(30));
        };
        assert!(matches!(error, RegistryError::Slow { .. }), "{error:?}");
    });
    assert_eq!(world.parameters("b"), 11);
    // Those who wait get an answer when the server stops, although the disk gives none.
    thread::scope(|scope| {
        let slow = &world.registry;
        write(&world.root.join("slow2"), "slow 10");
        let waiting = scope.spawn(|| slow.get("slow2").unwrap_err());
        wait_until("it loads", || world.loads() == 4);
        world.registry.close();
        assert!(matches!(waiting.join().unwrap(), RegistryError::Stopped));
    });
    assert!(world.registry.pinned("a").is_some());
    world.source.open_gate();
}

#[test]
fn panic_while_loading_is_an_error_of_that_adapter() {
    let world = World::new(100, &[("a", "panic 10"), ("b", "10")]);
    let error = world.registry.get("a").unwrap_err();
    assert!(matches!(&error, RegistryError::Panicked { reason, .. } if reason == "told to"), "{error:?}");
    assert_eq!(world.parameters("b"), 10);
    write(&world.root.join("a"), "12");
    wait_until("it is read again", || world.registry.get("a").is_ok());
}

/// Pins of `a` overlap without a gap, and there is memory for one of the two.
#[test]
fn eviction_is_fair_to_a_rare_adapter() {
    let world = World::with(10, &[("a", "10"), ("b", "10")], |settings| settings.room_wait = Duration::from_secs(20));
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let pin = world.registry.get("a").unwrap();
                    thread::sleep(Duration::from_millis(20));
                    answered.fetch_add(1, Ordering::Relaxed);
                    drop(pin);
                }
            });
        }
        wait_until("a is busy", || answered.load(Ordering::Relaxed) > 8);
        for _ in 0..5 {
            let (began, before) = (Instant::now(), answered.load(Ordering::Relaxed));
            let pin = world.registry.get("b").unwrap();
            assert_eq!(pin.name(), "b");
            // At most the patience, what runs, and the reading; a loaded machine takes longer.
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            drop(pin);
            wait_until("a has its turn again", || answered.load(Ordering::Relaxed) > before + 4);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(world.registry.bytes() <= 40);
    assert_eq!(world.registry.counters().failed_loads, 0);
}

/// With more adapters than may wait in memory for their turn, all get one.
#[test]
fn eviction_is_fair_to_many_adapters() {
    let names = ["a", "b", "c", "d", "e"];
    let adapters = names.map(|name| (name, "10"));
    let world = World::with(10, &adapters, |settings| settings.room_wait = Duration::from_secs(20));
    thread::scope(|scope| {
        for name in names {
            let registry = &world.registry;
            scope.spawn(move || {
                let next = || registry.get(name).unwrap();
                let mut pin = next();
                let first = Instant::now();
                // Each overlaps its pins, as a busy adapter's requests do, and asks for three turns.
                let mut turns = 1;
                while turns < 3 {
                    assert!(first.elapsed() < Duration::from_secs(60), "{name} starves");
                    thread::sleep(Duration::from_millis(5));
                    match registry.pinned(name) {
                        Some(overlapping) => pin = overlapping,
                        None => {
                            drop(pin);
                            pin = next();
                            turns += 1;
                        }
                    }
                }
                drop(pin);
            });
        }
    });
    assert!(world.registry.bytes() <= 40);
    assert_eq!(world.registry.counters().failed_loads, 0);
}

/// Many threads ask, replace, break, remove and put back adapters in memory for a few. Everybody gets an answer, every pin is of a
/// version that its adapter had, and in the end nothing is left over.
#[test]
fn random_use_never_hangs_or_mixes_versions() {
    let names = ["a", "b", "c", "d"];
    let world = World::with(35, &names.map(|name| (name, "10")), |settings| {
        settings.room_wait = Duration::from_secs(1);
    });
    for (size, name) in (10..14).zip(names) {
        // Sizes of an adapter are its number plus tens.
        write(&world.root.join(name), &size.to_string());
        write(&world.root.join(format!("spare-{name}")), &(size + 10).to_string());
    }
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for thread in 0..6 {
            let (world, done, answered) = (&world, &done, &answered);
            scope.spawn(move || {
                let mut random = rand::rngs::StdRng::seed_from_u64(thread);
                while !done.load(Ordering::Relaxed) {
                    let which = random.random_range(0..names.len());
                    match world.registry.get(names[which]) {
                        Ok(pin) => {
                            assert_eq!(pin.adapter().bytes() / 4 % 10, which, "{pin:?}");
                            thread::sleep(Duration::from_millis(random.random_range(0..20)));
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(RegistryError::NotFound { .. } | RegistryError::Invalid { .. }) => {}
                        Err(
                            RegistryError::Changing { .. }
                            | RegistryError::Busy { .. }
                            | RegistryError::TooLarge { .. },
                        ) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(8) {
            let which = random.random_range(0..names.len());
            let (name, dir) = (names[which], world.root.join(names[which]));
            match random.random_range(0..6) {
                0 | 1 => replace(&dir, &(10 * random.random_range(1..3) + which).to_string()),
                2 => write(&dir, "broken"),
                3 => drop(world.put(name, &format!("spare-{name}"), None)),
                4 => drop(world.delete(name, None)),
                _ => drop(world.put(name, name, None)),
            }
            thread::sleep(Duration::from_millis(random.random_range(0..120)));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(answered.load(Ordering::Relaxed) > 100, "{answered:?} answers");
    assert!(world.registry.bytes() <= 35 * 4);
    for name in names {
        write(&world.root.join(name), "5");
        world.put(name, name, None).unwrap();
        assert_eq!(world.parameters(name), 5);
    }
    assert_eq!((world.registry.bytes(), world.registry.resident()), (4 * 20, 4));
}

#[test]
fn several_adapters_are_pinned_together_or_not_at_all() {
    let adapters = [("a", "10"), ("b", "10"), ("c", "10")];
    let both = |world: &World, names: [&str; 2]| wait(world.registry.pin_all(&names));
    // Memory for one: the requests do not hold what the other one waits for.
    let world = World::with(10, &adapters, |settings| settings.room_wait = Duration::from_secs(600));
    thread::scope(|scope| {
        let asked = [["a", "b"], ["b", "a"], ["a", "c"]].map(|names| {
            let world = &world;
            scope.spawn(move || both(world, names).unwrap_err())
        });
        for thread in asked {
            let error = thread.join().unwrap();
            assert!(matches!(error, RegistryError::Busy { bytes: 40, budget: 40, .. }), "{error:?}");
        }
    });
    assert_eq!(both(&world, ["a", "a"]).unwrap().len(), 2);
    assert!(matches!(both(&world, ["a", "nobody"]), Err(RegistryError::NotFound { .. })));
    // Memory for all.
    let world = World::new(30, &adapters);
    let pins = both(&world, ["b", "a"]).unwrap();
    assert_eq!(pins.iter().map(|pin| pin.name()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(world.loads(), 2);
}

#[test]
fn swap_needs_no_room_for_both_versions() {
    let world = World::with(12, &[("a", "10")], |settings| settings.room_wait = Duration::from_secs(20));
    world.registry.preload("a").unwrap();
    let pin = world.registry.get("a").unwrap();
    replace(&world.root.join("a"), "12");
    // Its requests are held back until those before them are done.
    thread::scope(|scope| {
        wait_until("it is drained", || world.registry.pinned("a").is_none());
        let later = scope.spawn(|| world.parameters("a"));
        thread::sleep(Duration::from_millis(100));
        assert!(!later.is_finished());
        drop(pin);
        assert_eq!(later.join().unwrap(), 12);
    });
    assert_eq!((world.registry.bytes(), world.registry.counters().evictions), (48, 0));
    assert!(world.describe("a").unwrap().pinned, "the new version is pinned as well");
}

#[test]
fn preloaded_adapters_are_never_evicted() {
    let world = World::new(30, &[("a", "10"), ("b", "10"), ("c", "20"), ("d", "21")]);
    world.registry.preload("a").unwrap();
    for name in ["b", "c", "b", "c"] {
        world.registry.get(name).unwrap();
    }
    assert_eq!(world.in_memory(), ["a", "c"]);
    let pinned: Vec<_> = world.registry.statuses().into_iter().map(|status| (status.name, status.pinned)).collect();
    assert_eq!(pinned, [("a".into(), true), ("b".into(), false), ("c".into(), false)]);
    let error = world.registry.get("d").unwrap_err();
    assert!(matches!(error, RegistryError::NoRoom { bytes: 84, held: 40, budget: 120, .. }), "{error:?}");
    assert_eq!(world.in_memory(), ["a", "c"]);
}

#[test]
fn failed_load_is_remembered_for_a_moment() {
    let world = World::new(100, &[("bad", "x")]);
    for _ in 0..50 {
        assert!(matches!(world.registry.get("bad"), Err(RegistryError::Invalid { .. })));
    }
    assert!(world.loads() <= 3, "{} loads", world.loads());
    assert_eq!(world.registry.counters().failed_loads, world.loads() as u64);
    assert_eq!(world.registry.list().unwrap()[0].problem.as_deref().map(|told| told.contains("bad")), Some(true));
}

#[test]
fn adapter_of_another_base_is_served_with_a_warning_or_refused() {
    let adapters = [("a", "of:org/other 10"), ("b", "of:/models/base 10")];
    let world = World::new(100, &adapters);
    let warning = world.describe("a").unwrap().warning.unwrap();
    assert!(warning.contains("\"other\"") && warning.contains("org/base"), "{warning}");
    assert_eq!(world.describe("b").unwrap().warning, None);
    let strict = World::with(100, &adapters, |settings| settings.strict_base = true);
    let error = strict.registry.get("a").unwrap_err();
    assert!(matches!(&error, RegistryError::OtherBase { warning: told, .. } if *told == warning), "{error:?}");
    assert_eq!(strict.parameters("b"), 10);
}

/// A request for an adapter in memory does not ask the disk, not even whether the files are still there.
#[test]
fn adapters_in_memory_need_no_disk() {
    let world = World::new(100, &[("a", "10")]);
    assert!(world.registry.pinned("a").is_none());
    world.registry.get("a").unwrap();
    fs::remove_dir_all(world.root.join("a")).unwrap();
    assert_eq!(world.registry.pinned("a").unwrap().adapter().bytes(), 40);
    assert_eq!(world.registry.counters().hits, 1);
}

#[test]
fn finds_only_adapter_folders_inside_the_root() {
    let world = World::new(20, &[("a", "10")]);
    fs::create_dir(world.root.join("empty")).unwrap();
    fs::write(world.root.join("file"), "x").unwrap();
    write(&world.folder.path().join("secret"), "10");
    for name in ["b", "empty", "file", "", ".", "..", "../secret", "a/", "a/../a", "/", "a\0", "..\\secret"] {
        let error = world.registry.get(name).unwrap_err();
        assert!(matches!(&error, RegistryError::NotFound { name: n } if n == name), "{name:?}: {error:?}");
    }
    let absolute = world.root.join("a");
    assert!(matches!(world.registry.get(absolute.to_str().unwrap()), Err(RegistryError::NotFound { .. })));
    assert_eq!(world.loads(), 0);
}

#[test]
fn adapters_inside_anothers_folder_have_names_with_a_slash() {
    let world = World::new(60, &[("a", "10"), ("plain", "10")]);
    write(&world.root.join("a/second"), "12");
    write(&world.root.join("group/third"), "14");
    write(&world.root.join("group/deep/fourth"), "14");
    assert_eq!(world.registry.get("a/second").unwrap().adapter().bytes(), 48);
    assert_eq!(world.registry.get("group/third").unwrap().name(), "group/third");
    let names: Vec<_> = world.registry.list().unwrap().into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["a", "a/second", "group/third", "plain"]);
    for name in ["group", "group/deep", "group/deep/fourth", "a/../plain", "a//second", "group/", "/third"] {
        assert!(matches!(world.registry.get(name), Err(RegistryError::NotFound { .. })), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn refuses_symlinks_that_leave_the_root() {
    use std::os::unix::fs::symlink;

    let world = World::new(20, &[("a", "10")]);
    let secret = world.folder.path().join("secret");
    write(&secret, "10");
    symlink(&secret, world.root.join("out")).unwrap();
    symlink(world.folder.path().join("root/a"), world.root.join("alias")).unwrap();
    symlink(&world.root, world.root.join("self")).unwrap();
    write(&world.root.join("leak"), "10");
    fs::remove_file(world.root.join("leak/adapter_model.safetensors")).unwrap();
    symlink(secret.join("adapter_model.safetensors"), world.root.join("leak/adapter_model.safetensors")).unwrap();

    for (name, leak) in [("out", "out"), ("self", "self"), ("leak", "leak/adapter_model.safetensors")] {
        let error = world.registry.get(name).unwrap_err();
        assert!(matches!(&error, RegistryError::OutsideRoot { file, .. } if file == leak), "{name}: {error:?}");
    }
    assert_eq!(world.registry.get("alias").unwrap().adapter().bytes(), 40);
    let names: Vec<_> = world.registry.list().unwrap().into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["a", "alias"]);
}

#[test]
fn malformed_adapter_is_an_error_until_it_is_repaired() {
    let world = World::new(20, &[("a", "10"), ("bad", "x")]);
    let a = world.registry.get("a").unwrap();
    let error = world.registry.get("bad").unwrap_err();
    let RegistryError::Invalid { reason, .. } = &error else { panic!("{error:?}") };
    let told = Path::new("bad").join("adapter_model.safetensors").display().to_string();
    assert!(reason.contains(&told) && !reason.contains(&world.root.display().to_string()), "{reason}");
    assert!(Arc::ptr_eq(a.adapter(), world.registry.get("a").unwrap().adapter()));
    write(&world.root.join("bad"), "10");
    wait_until("it is read again", || world.registry.get("bad").is_ok());
    assert_eq!(world.parameters("bad"), 10);
}

#[test]
fn list_shows_what_is_known_without_loading() {
    let world = World::new(10, &[("b", "10"), ("a", "8"), ("bad", "x")]);
    world.registry.get("b").unwrap().count_request();
    let list = world.registry.list().unwrap();
    assert_eq!(world.loads(), 1);
    assert_eq!(
        serde_json::to_value(&list).unwrap(),
        serde_json::json!([
            {"name": "a", "tier": "disk", "pinned": false, "requests": 0, "generation": null, "ranks": null, "bytes": null,
             "labels": null, "first_active_site": null, "problem": null, "warning": null},
            {"name": "b", "tier": "memory", "pinned": false, "requests": 1, "generation": 1, "ranks": {"query": [0, 1]},
             "bytes": 40, "labels": ["yes"], "first_active_site": {"layer": 1, "module": "attention.self.query"},
             "problem": null, "warning": null},
            {"name": "bad", "tier": "disk", "pinned": false, "requests": 0, "generation": null, "ranks": null, "bytes": null,
             "labels": null, "first_active_site": null, "problem": null, "warning": null},
        ])
    );
    // Describing an adapter loads it. The facts about an evicted adapter stay known.
    let a = world.describe("a").unwrap();
    assert_eq!((a.tier, a.generation, a.bytes), (Tier::Memory, Some(2), Some(32)));
    let b = world.describe("b").unwrap();
    assert_eq!((b.tier, b.generation, b.requests), (Tier::Disk, Some(1), 1));
    assert!(matches!(world.describe("bad"), Err(RegistryError::Invalid { .. })));
    // Unchanged files are loaded again as the same version.
    assert_eq!(world.registry.get("b").unwrap().generation(), 1);
}

#[test]
fn finds_new_folder_on_request() {
    let world = World::new(20, &[]);
    assert!(matches!(world.registry.get("late"), Err(RegistryError::NotFound { .. })));
    write(&world.root.join("late"), "10");
    world.registry.get("late").unwrap();
}

#[test]
fn error_names_root_that_is_not_a_folder() {
    let world = World::new(20, &[]);
    for path in [world.root.join("missing"), {
        fs::write(world.root.join("file"), "x").unwrap();
        world.root.join("file")
    }] {
        let source = world.source.clone();
        assert!(matches!(Registry::new(source, &path, 1), Err(Error::Io { path: told, .. }) if told == path));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// In any sequence of requests, pins and releases, memory stays within the budget, and the reported bytes are the sum.
    #[test]
    fn memory_stays_within_the_budget(steps in prop::collection::vec((0usize..6, any::<bool>()), 1..60)) {
        let sizes = ["5", "8", "10", "13", "20", "30"];
        let names = ["a", "b", "c", "d", "e", "f"];
        let adapters: Vec<_> = names.into_iter().zip(sizes).collect();
        let world = World::with(35, &adapters, |settings| settings.room_wait = Duration::ZERO);
        let mut held = Vec::new();
        for (which, hold) in steps {
            match world.registry.get(names[which]) {
                Ok(loaded) if hold => held.push(loaded),
                Ok(_) => {}
                Err(RegistryError::Busy { .. }) => held.clear(),
                Err(error) => panic!("{error}"),
            }
            let memory = world.in_memory();
            let resident = adapters.iter().filter(|(n, _)| memory.iter().any(|m| m == n));
            let sum: usize = resident.map(|(_, s)| 4 * s.parse::<usize>().unwrap()).sum();
            prop_assert_eq!(world.registry.bytes(), sum);
            prop_assert!(sum <= 35 * 4);
            prop_assert!(held.iter().all(|loaded| memory.iter().any(|name| name == loaded.name())));
        }
    }
}
