//! Prefetches the memory that is read next, a little at a time, while something else is computed.
//!
//! The matrices of a low-rank delta are small and scattered in memory. By the time the hardware prefetcher has detected that one is
//! read sequentially, most of it has been read.

use std::slice::{Chunks, Iter};

/// The number of f32 in a cache line.
pub(crate) const LINE: usize = 16;

/// Rows to be prefetched in steps.
pub(crate) struct Prefetch<'a> {
    rows: Iter<'a, &'a [f32]>,
    row: Chunks<'a, f32>,
    /// The number of cache lines in a step.
    lines: usize,
}

impl<'a> Prefetch<'a> {
    /// Prefetches all of `rows`, divided among `steps`.
    pub(crate) fn new(rows: &'a [&'a [f32]], steps: usize) -> Self {
        let lines: usize = rows.iter().map(|row| row.len().div_ceil(LINE)).sum();
        Self { rows: rows.iter(), row: [].chunks(LINE), lines: lines.div_ceil(steps.max(1)) }
    }

    /// Prefetches the next lines, if any remain.
    #[inline(always)]
    pub(crate) fn step(&mut self) {
        for _ in 0..self.lines {
            let line = loop {
                match (self.row.next(), self.rows.as_slice()) {
                    (Some(line), _) => break line,
                    (None, [row, ..]) => {
                        self.row = row.chunks(LINE);
                        self.rows.next();
                    }
                    (None, []) => return,
                }
            };
            fetch(line);
        }
    }
}

/// Brings the cache line of the first element of `data` into the L1 cache.
#[inline(always)]
pub(crate) fn fetch<T>(data: &[T]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch changes nothing but the caches, and faults on no address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(data.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = data;
}

#[cfg(test)]
mod tests {
    use super::Prefetch;

    #[test]
    fn steps_cover_every_line_evenly() {
        let (long, short) = ([0.0; 100], [0.0; 20]);
        for steps in [1, 2, 3, 9, 50] {
            let rows = [&long[..], &short, &[], &short];
            let mut prefetch = Prefetch::new(&rows, steps);
            for _ in 1..steps.min(11) {
                prefetch.step();
            }
            let left =
                prefetch.row.len() + prefetch.rows.as_slice().iter().map(|row| row.len().div_ceil(16)).sum::<usize>();
            assert!(left <= 11_usize.div_ceil(steps), "{steps} steps leave {left} lines to the last");
            prefetch.step();
            prefetch.step();
            assert!(prefetch.row.next().is_none() || steps > 11);
        }
    }
}
