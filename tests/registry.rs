//! The registry over a fake source. The size of an adapter's head is the number in its file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use candle_core::{Device, Tensor};
use polyrank::adapter::{Adapter, AdapterError, AdapterInfo, AdapterWeights, Change};
use polyrank::engine::Error;
use polyrank::params::{Delta, Input, Layout, Module};
use polyrank::registry::{Registry, RegistryError, Source, Tier};
use proptest::prelude::*;
use tempfile::TempDir;

/// A fake source that counts loads. `adapter_model.safetensors` holds the adapter's number of parameters as text; any other content
/// is malformed.
struct Counting {
    layout: Layout,
    loads: AtomicUsize,
}

impl Source for Counting {
    fn load(&self, dir: &Path) -> Result<Adapter, Error> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let file = dir.join("adapter_model.safetensors");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let Ok(numbers) = text.trim().parse::<usize>() else {
            let (expected, found) = ("a number".into(), text);
            return Err(AdapterError::WrongBase { file, expected, found, names: None }.into());
        };
        // Of the two sites, the second has a delta of 4 parameters. The head has the other parameters.
        let random = |shape: (usize, usize)| Tensor::rand(-1f32, 1f32, shape, &Device::Cpu);
        let delta = Delta { a: random((1, 2))?, b: random((2, 1))?, scale: 1.0 };
        Ok(Adapter {
            info: AdapterInfo {
                labels: vec!["yes".into()],
                problem_type: None,
                base_fingerprint: None,
                base_model: None,
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
}

/// A folder of adapters, and a registry over it with memory for `budget` parameters.
struct World {
    source: Arc<Counting>,
    registry: Registry,
    root: PathBuf,
    folder: TempDir,
}

impl World {
    fn new(budget: usize, adapters: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
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
        let source = Arc::new(Counting { layout, loads: AtomicUsize::new(0) });
        for (name, model) in adapters {
            write(&root.join(name), model);
        }
        let shared = Arc::clone(&source);
        let registry = Registry::new(shared, &root, budget * 4).unwrap();
        Self { source, registry, root, folder }
    }

    fn loads(&self) -> usize {
        self.source.loads.load(Ordering::SeqCst)
    }

    fn in_memory(&self) -> Vec<String> {
        let list = self.registry.list().unwrap().into_iter();
        list.filter(|status| status.tier == Tier::Memory).map(|status| status.name).collect()
    }
}

fn write(dir: &Path, model: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("adapter_config.json"), "{}").unwrap();
    fs::write(dir.join("adapter_model.safetensors"), model).unwrap();
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
fn reports_changed_files_even_after_eviction() {
    let world = World::new(20, &[("a", "10"), ("b", "20")]);
    let before = world.registry.get("a").unwrap();
    write(&world.root.join("a"), "11 ");
    let changed = |error| assert!(matches!(&error, RegistryError::Changed { name } if name == "a"), "{error:?}");
    changed(world.registry.get("a").unwrap_err());
    assert_eq!(before.adapter().bytes(), 40, "a pin keeps the old version");
    drop(before);
    world.registry.get("b").unwrap();
    assert_eq!(world.in_memory(), ["b"]);
    changed(world.registry.get("a").unwrap_err());
    assert_eq!(world.registry.describe("a").unwrap().bytes, Some(40));
}

/// Sizes and times are equal, as with copies that preserve times, and in layers of container images.
#[cfg(unix)]
#[test]
fn redirected_link_counts_as_change() {
    let world = World::new(20, &[]);
    let time = std::time::SystemTime::now();
    for (version, model) in [("v1", "10"), ("v2", "11")] {
        let dir = world.root.join("store").join(version);
        write(&dir, model);
        for file in dir.read_dir().unwrap() {
            fs::File::options().write(true).open(file.unwrap().path()).unwrap().set_modified(time).unwrap();
        }
    }
    let live = world.root.join("live");
    std::os::unix::fs::symlink(world.root.join("store/v1"), &live).unwrap();
    assert_eq!(world.registry.get("live").unwrap().adapter().bytes(), 40);
    fs::remove_file(&live).unwrap();
    std::os::unix::fs::symlink(world.root.join("store/v2"), &live).unwrap();
    assert!(matches!(world.registry.get("live"), Err(RegistryError::Changed { .. })));
}

#[test]
fn added_or_removed_file_counts_as_change() {
    for (file, comes) in [("config.json", true), ("adapter_model.safetensors", false)] {
        let world = World::new(20, &[("a", "10")]);
        world.registry.get("a").unwrap();
        let file = world.root.join("a").join(file);
        if comes {
            fs::write(file, "{}").unwrap()
        } else {
            fs::remove_file(file).unwrap()
        }
        assert!(matches!(world.registry.get("a"), Err(RegistryError::Changed { .. })), "{comes}");
    }
    let world = World::new(20, &[("a", "10")]);
    world.registry.get("a").unwrap();
    fs::remove_dir_all(world.root.join("a")).unwrap();
    assert!(matches!(world.registry.get("a"), Err(RegistryError::NotFound { .. })));
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
    assert_eq!(world.registry.get("bad").unwrap().adapter().bytes(), 40);
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
            {"name": "a", "tier": "disk", "requests": 0, "generation": null, "ranks": null, "bytes": null, "labels": null,
             "first_active_site": null},
            {"name": "b", "tier": "memory", "requests": 1, "generation": 1, "ranks": {"query": [0, 1]}, "bytes": 40,
             "labels": ["yes"], "first_active_site": {"layer": 1, "module": "attention.self.query"}},
            {"name": "bad", "tier": "disk", "requests": 0, "generation": null, "ranks": null, "bytes": null, "labels": null,
             "first_active_site": null},
        ])
    );
    // Describing an adapter loads it. The facts about an evicted adapter stay known.
    let a = world.registry.describe("a").unwrap();
    assert_eq!((a.tier, a.generation, a.bytes), (Tier::Memory, Some(2), Some(32)));
    let b = world.registry.describe("b").unwrap();
    assert_eq!((b.tier, b.generation, b.requests), (Tier::Disk, Some(1), 1));
    assert!(matches!(world.registry.describe("bad"), Err(RegistryError::Invalid { .. })));
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
        let source = Arc::clone(&world.source);
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
        let world = World::new(35, &adapters);
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
