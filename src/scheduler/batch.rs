//! Which rows run next: a pure policy.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Takes the next batch off the front of `queue`: as many rows, in their order, as fit into `limit` tokens, and always one,
/// so that a row larger than the limit runs alone. Rows of one adapter end up next to each other, in order of the adapters'
/// first appearance; inside an adapter the queue's order stays.
pub fn take<T, K: Eq + Hash>(
    queue: &mut VecDeque<T>,
    limit: usize,
    tokens: impl Fn(&T) -> usize,
    adapter: impl Fn(&T) -> K,
) -> Vec<T> {
    let mut sum = 0usize;
    let rows = queue.iter().take_while(|row| {
        let first = sum == 0;
        // A row of no tokens still counts, so that `first` is true once.
        sum = sum.saturating_add(tokens(row).max(1));
        first || sum <= limit
    });
    let rows = rows.count();
    let mut batch: Vec<T> = queue.drain(..rows).collect();
    let mut appearance = HashMap::new();
    for row in &batch {
        let next = appearance.len();
        appearance.entry(adapter(row)).or_insert(next);
    }
    batch.sort_by_key(|row| appearance[&adapter(row)]);
    batch
}
