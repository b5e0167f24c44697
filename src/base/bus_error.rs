//! Says why the process ends when a mapped file can no longer be read. Without it, the system ends the process with no line in the log.

/// From now on, a page of a mapped file that cannot be read (the signal SIGBUS) ends the process with a line on standard error, which is
/// JSON if `as_json` is true. The process still ends by the signal. Only on Linux; elsewhere this does nothing.
///
/// A program calls it once, at its start. The library never does, because a signal's handler belongs to the whole process.
pub fn report_bus_errors(as_json: bool) {
    #[cfg(target_os = "linux")]
    linux::install(as_json);
    #[cfg(not(target_os = "linux"))]
    let _ = as_json;
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::c_int;
    use std::mem::zeroed;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicBool, Ordering};

    macro_rules! message {
        () => {
            "a mapped file can no longer be read (SIGBUS). A base's model.safetensors, or prepacked weights in the cache, were truncated while \
             in use, or their disk fails. Replace a base by a new folder, and never change its files"
        };
    }

    const LINE: &[u8] = concat!("error: ", message!(), "\n").as_bytes();
    const JSON: &[u8] =
        concat!("{\"level\":\"ERROR\",\"fields\":{\"message\":\"", message!(), "\"},\"target\":\"polyrank\"}\n")
            .as_bytes();

    static AS_JSON: AtomicBool = AtomicBool::new(false);

    pub(super) fn install(as_json: bool) {
        AS_JSON.store(as_json, Ordering::Relaxed);
        // SAFETY: all zeros are a valid `sigaction`. `report` is a handler of the type that the flags ask for, the pointer to the action
        // is valid, and the old action is not asked for. With SA_RESETHAND, the second signal has the system's own action, so that the
        // same access, repeated after the handler, ends the process.
        unsafe {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = report as *const () as usize;
            action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &raw const action, null_mut());
        }
    }

    /// Writes the line. The thread may have been interrupted anywhere, so this allocates nothing and takes no lock. A pipe that is full,
    /// because nobody reads it, would keep the process from ending; so the line is left out where standard error has no room.
    extern "C" fn report(_: c_int) {
        let line = if AS_JSON.load(Ordering::Relaxed) { JSON } else { LINE };
        let mut room = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
        // SAFETY: both calls may be made in a handler, and get one valid entry and the bytes of a constant. Their results change nothing:
        // the process ends.
        unsafe {
            if libc::poll(&raw mut room, 1, 0) == 1 && room.revents & libc::POLLOUT != 0 {
                libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len());
            }
        }
    }
}
