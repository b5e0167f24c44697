//! Which folders are adapters, and what a list shows of them.

use super::*;

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

/// A server names them when it starts.
#[test]
fn first_adapters_are_found_without_a_look_at_all() {
    let world = World::new(100, &[("b", "10"), (".hidden", "10"), ("group/inner", "10")]);
    fs::create_dir(world.root.join("empty")).unwrap();
    fs::write(world.root.join("file"), "").unwrap();
    let first = || world.registry.first(5).unwrap();
    let names = |names: &[&str], others| {
        let names = names.iter().copied().map(str::to_owned).collect();
        FirstAdapters { names, others, ..FirstAdapters::default() }
    };
    assert_eq!(first(), names(&["b", "group/inner"], false));
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;

        let elsewhere = world.folder.path().join("elsewhere");
        write(&elsewhere.join("adapter"), "10");
        let links = ["away", "data", "leak/config.json"].map(|link| world.root.join(link));
        write(&world.root.join("leak"), "10");
        fs::remove_file(&links[2]).unwrap();
        symlink(elsewhere.join("adapter"), &links[0]).unwrap();
        // A folder that is no adapter.
        symlink(&elsewhere, &links[1]).unwrap();
        symlink(elsewhere.join("adapter/config.json"), &links[2]).unwrap();
        assert_eq!(
            first(),
            FirstAdapters { outside: vec!["away".into(), "leak".into()], ..names(&["b", "group/inner"], false) }
        );
        links.iter().for_each(|link| fs::remove_file(link).unwrap());
        fs::remove_dir_all(world.root.join("leak")).unwrap();
    }
    for name in ["a", "b/c", "group/other"] {
        write(&world.root.join(name), "10");
    }
    assert_eq!(first(), names(&["a", "b", "b/c", "group/inner", "group/other"], false));
    for number in 0..2000 {
        let folder = world.root.join(format!("many{number}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("adapter_config.json"), "{}").unwrap();
    }
    assert_eq!(first(), names(&["a", "b", "b/c", "group/inner", "group/other"], true));
    assert_eq!(world.loads(), 0);
}

#[test]
fn list_shows_what_is_known_without_loading() {
    let world = World::new(10, &[("b", "10"), ("a", "8"), ("bad", "x")]);
    world.registry.get("b").unwrap().count_request();
    let list = world.registry.list().unwrap();
    assert_eq!(world.loads(), 1);
    let problem = world.registry.get("bad").unwrap_err().to_string();
    assert_eq!(
        serde_json::to_value(&list).unwrap(),
        serde_json::json!([
            {"name": "a", "tier": "disk", "pinned": false, "requests": 0, "generation": null, "ranks": null, "bytes": null,
             "labels": null, "problem_type": null, "first_active_site": null, "problem": null, "warning": null},
            {"name": "b", "tier": "memory", "pinned": false, "requests": 1, "generation": 1, "ranks": {"query": [0, 1]},
             "bytes": 40, "labels": ["yes"], "problem_type": null,
             "first_active_site": {"layer": 1, "module": "attention.self.query"}, "problem": null, "warning": null},
            {"name": "bad", "tier": "disk", "pinned": false, "requests": 0, "generation": null, "ranks": null, "bytes": null,
             "labels": null, "problem_type": null, "first_active_site": null, "problem": problem, "warning": null},
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

/// Another failure than that the folder is gone, such as a link that leads to itself.
#[cfg(unix)]
#[test]
fn adapters_in_memory_serve_while_the_root_cannot_be_read() {
    let world = World::new(40, &[("a", "10"), ("b", "11")]);
    world.registry.get("a").unwrap();
    fs::rename(&world.root, world.folder.path().join("away")).unwrap();
    std::os::unix::fs::symlink(&world.root, &world.root).unwrap();
    let error = world.registry.get("b").unwrap_err();
    assert!(matches!(error, RegistryError::RootUnreadable { .. }), "{error:?}");
    assert!(!error.to_string().contains(&*world.root.to_string_lossy()), "{error}");
    assert!(matches!(world.registry.list(), Err(RegistryError::RootUnreadable { .. })));
    assert_eq!(world.parameters("a"), 10);
    fs::remove_file(&world.root).unwrap();
    fs::rename(world.folder.path().join("away"), &world.root).unwrap();
    assert_eq!(world.parameters("b"), 11);
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
