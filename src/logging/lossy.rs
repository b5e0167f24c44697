//! Log lines in a bounded queue, which one thread writes out. Threads that log never wait: a line that finds the queue full is dropped
//! and counted.
//!
//! The crate `tracing-appender` has such a queue, but does not log the number of dropped lines, and prints to standard output if the
//! queue is still full at the end, where a pipe that nobody reads would stop the process after all.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// The number of lines that wait at most.
const LINES: usize = 4096;

/// How long [`flush`] waits at most.
const FLUSH: Duration = Duration::from_millis(500);

/// The queue of this process, if it has one.
static QUEUE: OnceLock<SyncSender<Entry>> = OnceLock::new();

enum Entry {
    Line(Vec<u8>),
    /// Answered once all earlier lines are written.
    Flush(SyncSender<()>),
}

/// The entrance of the queue.
pub(super) struct Lossy {
    queue: SyncSender<Entry>,
    dropped: Arc<AtomicUsize>,
}

impl Lossy {
    /// Starts the thread that writes lines to `writer`.
    pub(super) fn start(writer: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel(LINES);
        let dropped = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&dropped);
        thread::Builder::new().name("logs".into()).spawn(move || {
            write(&lines, &counted, writer, |lines| {
                // This line goes through the queue as well, which has room again.
                tracing::warn!(lines, "log lines were dropped, because standard error was not read in time");
            })
        })?;
        let _ = QUEUE.set(queue.clone());
        Ok(Self { queue, dropped })
    }
}

/// Writes lines until all entrances are gone, and reports the number of lines that were dropped.
fn write(lines: &Receiver<Entry>, dropped: &AtomicUsize, mut writer: impl Write, report: impl Fn(usize)) {
    for entry in lines {
        match entry {
            // The reader may have gone away, and another one may come.
            Entry::Line(line) => drop(writer.write_all(&line)),
            Entry::Flush(done) => drop(done.try_send(())),
        }
        let lines = dropped.swap(0, Ordering::Relaxed);
        if lines > 0 {
            report(lines);
        }
    }
}

impl<'a> MakeWriter<'a> for Lossy {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Lossy {
    /// Queues a line: the logs are written line by line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Entry::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until the lines logged so far are written, but not for long, because nobody may read them. A process that logs without
/// waiting calls this before it ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        flush_queue(queue, Instant::now() + FLUSH);
    }
}

/// Prints a line on standard error: in the order of the logs, and without waiting for long if those do not wait.
pub fn print(line: &str) {
    let Some(queue) = QUEUE.get() else {
        // There is nowhere left to report a failure to.
        let _ = writeln!(io::stderr(), "{line}");
        return;
    };
    let end = Instant::now() + FLUSH;
    if send(queue, Entry::Line(format!("{line}\n").into_bytes()), end) {
        flush_queue(queue, end);
    }
}

fn flush_queue(queue: &SyncSender<Entry>, end: Instant) {
    let (done, written) = sync_channel(1);
    if send(queue, Entry::Flush(done), end) {
        let _ = written.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

/// Queues an entry, and waits for room until `end`.
fn send(queue: &SyncSender<Entry>, mut entry: Entry, end: Instant) -> bool {
    loop {
        match queue.try_send(entry) {
            Ok(()) => return true,
            Err(TrySendError::Full(back)) if Instant::now() < end => entry = back,
            Err(_) => return false,
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    /// A pipe that nobody reads before `read` is dropped.
    struct Pipe(Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Pipe {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().unwrap_err();
            self.1.lock().unwrap().extend(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn unread_lines_are_dropped_and_counted() {
        let ((read, unread), (reported, reports)) = (channel(), channel());
        let text = Arc::default();
        let (queue, lines) = sync_channel(LINES);
        let logs = Lossy { queue: queue.clone(), dropped: Arc::default() };
        let (dropped, pipe) = (Arc::clone(&logs.dropped), Pipe(unread, Arc::clone(&text)));
        let counted = Arc::clone(&dropped);
        let thread = thread::spawn(move || write(&lines, &counted, pipe, |lines| reported.send(lines).unwrap()));
        for line in 0..LINES + 10 {
            (&logs).write_all(format!("line={line}.\n").as_bytes()).unwrap();
        }
        // One line may be in the hands of the thread.
        let lost = dropped.load(Ordering::Relaxed);
        assert!((9..=10).contains(&lost), "{lost}");
        // Nobody reads, so that this wait ends by itself.
        flush_queue(&queue, Instant::now() + Duration::from_millis(20));
        drop(read);
        flush_queue(&queue, Instant::now() + Duration::from_secs(60));
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        assert!(text.contains("line=0.") && !text.contains(&format!("line={}.", LINES + 9)), "{text}");
        assert_eq!(reports.recv().unwrap(), lost);
        drop((logs, queue));
        thread.join().unwrap();
        assert!(reports.recv().is_err());
    }
}
