//! `PUT`, `DELETE` and manual updates.

use super::*;

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
    // The problem names the folder that a PUT has to name.
    world.put("a", "b", None).unwrap();
    replace(&world.root.join("b"), "14");
    let told = || {
        world
            .describe("a")
            .unwrap()
            .problem
            .is_some_and(|problem| problem.contains("\"a\", in the folder \"b\", have changed"))
    };
    wait_until("the change of the other folder is told", told);
}

/// An adapter that a `PUT` put into another folder is gone with that folder, and comes back with it. Its own folder, which has other files,
/// never answers for it unless a `PUT` says so.
#[test]
fn adapter_of_a_put_stays_with_its_folder() {
    for updates in [Updates::Auto, Updates::Manual] {
        for path in ["v2", "./v2", "b/../v2", "/"] {
            let world =
                World::with(100, &[("a", "10"), ("b", "11"), ("v2", "12")], |settings| settings.updates = updates);
            let (folder, away) = (world.root.join("v2"), world.folder.path().join("away"));
            let path = if path == "/" { folder.to_str().unwrap() } else { path };
            for name in ["a", "alias"] {
                assert_eq!(world.put(name, path, None).unwrap().bytes, Some(48), "{path}");
            }
            fs::rename(&folder, &away).unwrap();
            let gone = |name| matches!(world.registry.get(name), Err(RegistryError::NotFound { .. }));
            for name in ["a", "alias"] {
                wait_until("it is gone", || gone(name));
                assert!(matches!(world.describe(name), Err(RegistryError::NotFound { .. })), "{path}");
            }
            let names: Vec<_> = world.registry.list().unwrap().into_iter().map(|status| status.name).collect();
            assert_eq!(names, ["b"], "{path}");
            fs::rename(&away, &folder).unwrap();
            for name in ["a", "alias"] {
                assert_eq!(world.parameters(name), 12, "{path}");
            }
            assert_eq!(world.put("a", "a", None).unwrap().bytes, Some(40), "{path}");
        }
    }
}

/// A folder that is back is listed before anybody asks for it, however a `PUT` has spelt it.
#[test]
fn adapter_of_a_put_into_its_own_folder_is_listed_as_others_are() {
    let world = World::new(100, &[("a", "10")]);
    for path in ["a", "./a", "././a/"] {
        assert_eq!(world.put("a", path, None).unwrap().bytes, Some(40), "{path}");
        let (folder, away) = (world.root.join("a"), world.folder.path().join("away"));
        fs::rename(&folder, &away).unwrap();
        wait_until("it is gone", || matches!(world.registry.get("a"), Err(RegistryError::NotFound { .. })));
        fs::rename(&away, &folder).unwrap();
        let names: Vec<_> = world.registry.list().unwrap().into_iter().map(|status| status.name).collect();
        assert_eq!(names, ["a"], "{path}");
    }
}
