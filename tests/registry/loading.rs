//! Loads: slow, failing and repaired adapters.

use std::sync::mpsc::channel;

use super::*;

#[test]
fn slow_adapter_holds_up_no_other() {
    let world = World::new(1000, &[("a", "10"), ("b", "11"), ("slow", "slow 10")]);
    world.registry.get("a").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut waiting: Vec<_> = (0..600).map(|_| Box::pin(world.registry.pin("slow"))).collect();
        for wait in &mut waiting {
            // It is asked once, whatever time is left.
            let soon = tokio::time::timeout(Duration::ZERO, wait).await;
            assert!(soon.is_err(), "{soon:?}");
        }
        wait_until("it loads", || world.loads() == 2);
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

#[test]
fn load_that_finds_the_device_lost_is_told_and_tried_again() {
    let world = World::new(100, &[("a", "lost 10")]);
    let (told_sender, told) = channel();
    world.registry.on_device_lost(move || told_sender.send(()).unwrap());
    let error = world.registry.get("a").unwrap_err();
    assert!(matches!(&error, RegistryError::Invalid { error, .. } if matches!(**error, Error::DeviceLost { .. })));
    told.recv().unwrap();
    // The files are not to blame.
    wait_until("it is read again", || world.registry.get("a").is_err() && told.try_recv().is_ok());
}

#[test]
fn failed_load_is_remembered_for_a_moment() {
    let world = World::new(100, &[("bad", "x")]);
    for _ in 0..50 {
        assert!(matches!(world.registry.get("bad"), Err(RegistryError::Invalid { .. })));
    }
    assert!(world.loads() <= 3, "{} loads", world.loads());
    assert_eq!(world.registry.counters().failed_loads, world.loads() as u64);
    // Why it failed can still be told later.
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(world.registry.list().unwrap()[0].problem.as_deref().map(|told| told.contains("bad")), Some(true));
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
