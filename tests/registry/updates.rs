//! Changed, broken, moved and deleted files.

use super::*;

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

/// Nothing about files changes where a server of volumes grants a permission.
#[test]
fn update_that_becomes_readable_is_served_and_told_once() {
    let world = World::new(100, &[("a", "10")]);
    world.registry.get("a").unwrap();
    replace(&world.root.join("a"), "denied 12");
    wait_until("the update is refused", || world.registry.counters().refused_updates == 1);
    let loads = world.loads();
    wait_until("it is read again", || world.loads() > loads + 1);
    assert_eq!(world.registry.counters().refused_updates, 1);
    assert_eq!(world.parameters("a"), 10);
    world.source.open_gate();
    wait_until("the update is served", || world.parameters("a") == 12);
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

/// Until the files of a new version have stopped changing, it is told why the old one is served.
#[test]
fn version_that_is_still_copied_is_told() {
    let world = World::new(100, &[("a", "10")]);
    world.registry.get("a").unwrap();
    let problem = || world.registry.statuses().remove(0).problem;
    assert_eq!(problem(), None);
    let model = std::cell::Cell::new(11);
    wait_until("the change is told", || {
        model.set(if model.get() == 11 { 12 } else { 11 });
        replace(&world.root.join("a"), &model.get().to_string());
        problem().is_some_and(|problem| problem == "the files of adapter \"a\" are still changing")
    });
    wait_until("the new version is served", || world.parameters("a") == model.get() && problem().is_none());
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
fn evicted_adapter_whose_folder_is_gone_is_forgotten() {
    // Memory for one of them.
    let world = World::new(10, &[("a", "10"), ("b", "10")]);
    world.registry.get("a").unwrap();
    world.registry.get("b").unwrap();
    let names = || world.registry.statuses().into_iter().map(|status| status.name).collect::<Vec<_>>();
    assert_eq!(names(), ["a", "b"]);
    fs::remove_dir_all(world.root.join("a")).unwrap();
    wait_until("it is forgotten", || names() == ["b"]);
    assert_eq!((world.loads(), world.in_memory()), (2, vec!["b".into()]));
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
