//! Logs the stacks of all threads of this process.
//!
//! On Linux, a thread captures its own stack in the handler of a signal that is sent to it. No crate does this for threads of its own
//! process without a second process; the unwinding and the names of functions come from `backtrace`. The kernel adds each thread's
//! state, and what it waits for. Other systems have no such list of threads.

#[cfg(target_os = "linux")]
pub(super) fn log() {
    for thread in linux::threads() {
        let linux::Thread { id, name, state, waits_in, system_call, stack } = thread;
        tracing::error!(
            "thread {id} {name:?}, state {state}, waits in {waits_in}, system call {system_call}:\n{stack}"
        );
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn log() {
    tracing::error!("the stacks of threads can be read only on Linux");
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::{c_int, c_void};
    use std::fmt::Write;
    use std::fs;
    use std::mem::zeroed;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
    use std::sync::{Mutex, PoisonError};
    use std::time::{Duration, Instant};

    /// A thread as it stood when it was looked at.
    pub(super) struct Thread {
        pub(super) id: i32,
        pub(super) name: String,
        /// The kernel's letter: R runs, S sleeps, D waits for a device.
        pub(super) state: String,
        /// The function of the kernel in which it sleeps, where the kernel reports it.
        pub(super) waits_in: String,
        /// The number and arguments of its system call, or `running`.
        pub(super) system_call: String,
        /// A function a line, the innermost first.
        pub(super) stack: String,
    }

    /// The signal. By default it is ignored, so that a signal that comes late does no harm.
    const SIGNAL: c_int = libc::SIGURG;

    /// How long a thread may take to begin and to end its capture.
    const ANSWERS_WITHIN: Duration = Duration::from_millis(200);

    /// The most functions of a stack.
    const DEPTH: usize = 128;

    /// The thread that is to capture its stack; negative while it does; 0 if none is to.
    static WANTED: AtomicI32 = AtomicI32::new(0);
    /// The addresses of the captured stack, of which [`COUNT`] are valid.
    static FRAMES: [AtomicUsize; DEPTH] = [const { AtomicUsize::new(0) }; DEPTH];
    /// The number of addresses.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    /// One thread at a time uses the statics above.
    static CAPTURING: Mutex<()> = Mutex::new(());

    /// All threads but the caller's.
    pub(super) fn threads() -> Vec<Thread> {
        let _one = CAPTURING.lock().unwrap_or_else(PoisonError::into_inner);
        let handler = Handler::install();
        let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // SAFETY: the call has no arguments and cannot fail.
        let own = unsafe { libc::gettid() };
        ids.filter(|&id| id != own).map(|id| thread(id, handler.as_ref())).collect()
    }

    fn thread(id: i32, handler: Option<&Handler>) -> Thread {
        let read = |file| fs::read_to_string(format!("/proc/self/task/{id}/{file}")).unwrap_or_default();
        // The name is in parentheses and may contain any character.
        let state = read("stat").rsplit(") ").next().and_then(|rest| rest.get(..1)).unwrap_or_default().to_owned();
        let [name, waits_in, system_call] = ["comm", "wchan", "syscall"].map(|file| read(file).trim().to_owned());
        let stack =
            handler.and_then(|handler| handler.capture(id)).map_or("not captured".into(), |stack| named(&stack));
        Thread { id, name, state, waits_in, system_call, stack }
    }

    /// The functions at these addresses, a line each, without those of the capture itself.
    fn named(stack: &[usize]) -> String {
        let text = all_named(stack);
        let own = text
            .find("capture_own")
            .and_then(|own| text[own..].match_indices('\n').nth(1).map(|(end, _)| own + end + 1));
        // The line after the handler's is the system's, which calls handlers.
        own.map_or(text.as_str(), |end| &text[end..]).to_owned()
    }

    fn all_named(stack: &[usize]) -> String {
        let mut text = String::new();
        for &address in stack {
            let mut named = false;
            backtrace::resolve(address as *mut c_void, |symbol| {
                named = true;
                let name = symbol.name().map_or("?".into(), |name| format!("{name:#}"));
                let place = symbol.filename().zip(symbol.lineno());
                let place = place.map_or(String::new(), |(file, line)| format!(" {}:{line}", file.display()));
                let _ = writeln!(text, "  {name}{place}");
            });
            if !named {
                let _ = writeln!(text, "  {address:#x}");
            }
        }
        text
    }

    /// The signal's handler while it is installed.
    struct Handler {
        before: libc::sigaction,
    }

    impl Handler {
        fn install() -> Option<Self> {
            // SAFETY: all zeros are a valid `sigaction`: the default action, no flags and an empty mask. `capture_own` is a handler of
            // the type that the flags ask for, and both pointers are valid.
            unsafe {
                let (mut action, mut before): (libc::sigaction, libc::sigaction) = (zeroed(), zeroed());
                action.sa_sigaction = capture_own as *const () as usize;
                action.sa_flags = libc::SA_RESTART;
                (libc::sigaction(SIGNAL, &raw const action, &raw mut before) == 0).then_some(Self { before })
            }
        }

        /// The stack of a thread of this process; `None` if the thread does not answer, because it has ended or cannot be interrupted.
        fn capture(&self, id: i32) -> Option<Vec<usize>> {
            // A thread that has begun a capture and not ended it is still using the statics.
            WANTED.compare_exchange(0, id, Ordering::AcqRel, Ordering::Relaxed).ok()?;
            // SAFETY: the call sends a signal, which this process handles, to a thread of this process.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), id, SIGNAL) } == 0;
            let begun = Instant::now();
            while sent && WANTED.load(Ordering::Acquire) != 0 && begun.elapsed() < ANSWERS_WITHIN {
                std::thread::sleep(Duration::from_micros(100));
            }
            if WANTED.compare_exchange(id, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return None;
            }
            while WANTED.load(Ordering::Acquire) != 0 {
                if begun.elapsed() > 2 * ANSWERS_WITHIN {
                    return None;
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            let count = COUNT.load(Ordering::Relaxed).min(DEPTH);
            Some(FRAMES[..count].iter().map(|frame| frame.load(Ordering::Relaxed)).collect())
        }
    }

    impl Drop for Handler {
        fn drop(&mut self) {
            // A capture that has not ended needs the handler's code only, which stays.
            // SAFETY: `before` is what `sigaction` returned, and the old action is not asked for.
            unsafe { libc::sigaction(SIGNAL, &raw const self.before, null_mut()) };
        }
    }

    /// Captures the stack of the thread that the signal interrupted.
    ///
    /// The thread may have been interrupted anywhere, also inside the allocator or with a lock held. So this allocates nothing, names
    /// no functions, and writes only to atomics. Unwinding takes the dynamic linker's lock; a thread that was interrupted while it holds
    /// that lock takes it again, which the lock allows.
    extern "C" fn capture_own(_: c_int) {
        // SAFETY: the calls return the thread's id and the place of its error number. Neither fails.
        let (id, error) = unsafe { (libc::gettid(), libc::__errno_location()) };
        if WANTED.compare_exchange(id, -id, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        // SAFETY: the pointer is this thread's own, and valid while the thread runs.
        let before = unsafe { *error };
        let mut count = 0;
        // SAFETY: only one thread captures at a time, as `WANTED` grants it, and nothing else here calls `backtrace` while one does.
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                FRAMES[count].store(frame.ip() as usize, Ordering::Relaxed);
                count += 1;
                count < DEPTH
            });
        }
        COUNT.store(count, Ordering::Relaxed);
        // SAFETY: the pointer is this thread's own, and valid while the thread runs.
        unsafe { *error = before };
        WANTED.store(0, Ordering::Release);
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used)]

        use std::sync::mpsc::channel;
        use std::thread;

        use super::*;

        /// The compiler may not end it in a jump to `recv`, after which it would not be on the stack.
        #[inline(never)]
        fn stands_here(wait: &std::sync::mpsc::Receiver<()>) -> bool {
            std::hint::black_box(wait.recv().is_err())
        }

        #[test]
        fn stacks_of_other_threads_name_their_functions() {
            let (stop, stopped) = channel::<()>();
            let thread = thread::Builder::new().name("stands".into()).spawn(move || stands_here(&stopped)).unwrap();
            let found = (0..100).find_map(|_| {
                let threads = threads();
                let found = threads.into_iter().find(|thread| thread.name == "stands")?;
                found.stack.contains("stands_here").then_some(found)
            });
            let found = found.unwrap();
            assert_eq!(found.state, "S");
            assert!(!found.stack.contains("capture_own"), "{}", found.stack);
            drop(stop);
            assert!(thread.join().unwrap());
        }
    }
}
