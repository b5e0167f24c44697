//! What stays in memory: the budget, pins, eviction, preloading.

use super::*;
use crate::parity::{folder, goldens};

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
    assert_eq!(world.loads(), 2, "its bytes show only once it is made");
}

/// An adapter is not made, which would take the memory, where its files show that it is larger than the budget.
#[test]
fn refuses_adapter_of_too_many_elements_before_it_is_made() {
    let told = |parameters: usize| format!("{parameters:>width$}", width = TOLD as usize + parameters);
    let world = World::new(12, &[("fits", &told(12)), ("large", &told(13))]);
    let error = world.registry.get("large").unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { bytes: 52, budget: 48, .. }), "{error:?}");
    assert_eq!(world.loads(), 0);
    world.registry.get("fits").unwrap();
}

#[test]
fn bytes_that_files_show_are_those_of_their_adapter() {
    let mut found = 0;
    for golden in goldens() {
        for (name, adapter, _) in golden.adapters() {
            let least = golden.engine.least_bytes(&OpenFiles::open(&folder(golden.base).join(&name)).unwrap()).unwrap();
            // A linear of the head becomes larger where its delta is added to the base's weight.
            assert!(least <= adapter.bytes(), "{} {name}", golden.base);
            found += usize::from(least == adapter.bytes());
        }
    }
    assert!(found > 9, "{found}");
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
            // At most the timeout, what runs, and the reading; a loaded machine takes longer.
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
            let never = RegistryError::TooLargeTogether { adapters: 2, bytes: 80, budget: 40 };
            assert_eq!(error.to_string(), never.to_string(), "trying again would not help");
        }
    });
    // Memory for both of them, but a request that runs holds a part of it.
    let busy = World::new(25, &adapters);
    let _held = busy.registry.get("c").unwrap();
    let error = both(&busy, ["a", "b"]).unwrap_err();
    assert!(matches!(error, RegistryError::Busy { bytes: 40, budget: 100, .. }), "{error:?}");
    assert_eq!(both(&world, ["a", "a"]).unwrap().len(), 2);
    assert!(matches!(both(&world, ["a", "nobody"]), Err(RegistryError::NotFound { .. })));
    // Memory for all.
    let world = World::new(30, &adapters);
    let pins = both(&world, ["b", "a"]).unwrap();
    assert_eq!(pins.iter().map(|pin| pin.name()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!((world.loads(), world.registry.counters().hits), (2, 0));
    // Each adapter counts once, however often it is looked up.
    both(&world, ["a", "b"]).unwrap();
    both(&world, ["a", "c"]).unwrap();
    assert_eq!((world.loads(), world.registry.counters().hits), (3, 3));
}

/// What is told of an adapter that cannot be loaded again is no longer told once its files have changed, though nobody asks for it.
#[test]
fn problem_of_an_evicted_adapter_is_gone_with_its_files() {
    let world = World::new(10, &[("a", "10"), ("b", "10")]);
    world.registry.get("a").unwrap();
    world.registry.get("b").unwrap();
    replace(&world.root.join("a"), "nonsense");
    wait_until("the load fails", || world.registry.get("a").is_err());
    let listed = || world.registry.list().unwrap().into_iter().find(|status| status.name == "a").unwrap();
    assert!(listed().problem.is_some() && world.describe("a").unwrap().problem.is_some());
    replace(&world.root.join("a"), "10");
    assert_eq!((listed().problem, world.describe("a").unwrap().problem), (None, None));
    assert_eq!(world.parameters("a"), 10);
    // The same for one that was never loaded.
    write(&world.root.join("c"), "nonsense");
    wait_until("the load fails", || matches!(world.registry.get("c"), Err(RegistryError::Invalid { .. })));
    let listed = || world.registry.list().unwrap().into_iter().find(|status| status.name == "c").unwrap();
    assert!(listed().problem.is_some());
    replace(&world.root.join("c"), "10");
    assert_eq!(listed().problem, None);
}

/// A version that could not be loaded again serves on, and others are evicted before it.
#[test]
fn adapter_with_broken_files_is_evicted_last() {
    let world = World::new(20, &[("a", "10"), ("b", "10"), ("c", "10")]);
    world.registry.get("a").unwrap();
    replace(&world.root.join("a"), "nonsense");
    wait_until("the update is refused", || world.describe("a").unwrap().problem.is_some());
    for name in ["b", "c", "b"] {
        world.registry.get(name).unwrap();
        assert_eq!(world.describe("a").unwrap().tier, Tier::Memory);
    }
    assert_eq!(world.registry.get("a").unwrap().generation(), 1);
    // Once they are repaired, it is one of many again.
    replace(&world.root.join("a"), "10");
    wait_until("the problem is gone", || world.describe("a").unwrap().problem.is_none());
    for name in ["b", "c"] {
        world.registry.get(name).unwrap();
    }
    assert_eq!(world.describe("a").unwrap().tier, Tier::Disk);
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
