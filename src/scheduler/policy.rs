//! Decides which texts run next. These are pure functions of sizes and keys, without threads, clocks or clients.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// How many texts at the front of the queue form the next batch. `sizes` are the token counts of the texts, in the queue's order. The
/// batch has as many texts as fit into `limit` tokens, but at least one, so that a text larger than the limit runs alone.
pub(super) fn batch_size(sizes: impl IntoIterator<Item = usize>, limit: usize) -> usize {
    let mut sum = 0usize;
    let fits = |(position, tokens): &(usize, usize)| {
        // A text without tokens counts as one, so that a batch ends.
        sum = sum.saturating_add((*tokens).max(1));
        *position == 0 || sum <= limit
    };
    sizes.into_iter().enumerate().take_while(fits).count()
}

/// Puts the texts of each adapter next to each other. Adapters are ordered by their first appearance; the texts of one adapter keep
/// their order.
pub(super) fn group<T, K: Eq + Hash>(batch: &mut [T], adapter: impl Fn(&T) -> K) {
    let mut appearance = HashMap::new();
    for text in batch.iter() {
        let next = appearance.len();
        appearance.entry(adapter(text)).or_insert(next);
    }
    batch.sort_by_key(|text| appearance[&adapter(text)]);
}

/// Takes the next batch from the front of `queue`, for commands that classify without a server: at most `limit` tokens, grouped by
/// adapter. A text larger than the limit runs alone.
pub fn take<T, K: Eq + Hash>(
    queue: &mut VecDeque<T>,
    limit: usize,
    tokens: impl Fn(&T) -> usize,
    adapter: impl Fn(&T) -> K,
) -> Vec<T> {
    let count = batch_size(queue.iter().map(tokens), limit);
    let mut batch: Vec<T> = queue.drain(..count).collect();
    group(&mut batch, adapter);
    batch
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_what_fits_and_at_least_one() {
        for (sizes, limit, expected) in [
            (&[][..], 10, 0),
            (&[10], 10, 1),
            (&[11], 10, 1),
            (&[11, 1], 10, 1),
            (&[4, 6, 1], 10, 2),
            (&[4, 7], 10, 1),
            (&[usize::MAX, usize::MAX], 10, 1),
            (&[0, 0, 0], 2, 2),
            (&[1], 0, 1),
        ] {
            assert_eq!(batch_size(sizes.iter().copied(), limit), expected, "{sizes:?} of {limit}");
        }
    }

    #[test]
    fn groups_by_first_appearance() {
        let mut batch = [(0, 'b'), (1, 'a'), (2, 'b'), (3, 'c'), (4, 'a')];
        group(&mut batch, |text| text.1);
        assert_eq!(batch, [(0, 'b'), (2, 'b'), (1, 'a'), (4, 'a'), (3, 'c')]);
    }

    proptest! {
        #[test]
        fn batch_is_the_longest_prefix_that_fits(sizes in prop::collection::vec(1usize..50, 0..40), limit in 1usize..100) {
            let count = batch_size(sizes.iter().copied(), limit);
            let tokens = |count: usize| sizes[..count].iter().sum::<usize>();
            prop_assert!(tokens(count) <= limit || count == 1);
            prop_assert!(count == sizes.len() || tokens(count + 1) > limit);
            prop_assert_eq!(count == 0, sizes.is_empty());
        }

        /// Grouping moves texts and does not change any.
        #[test]
        fn grouping_is_a_stable_permutation(keys in prop::collection::vec(0u8..5, 0..40)) {
            let mut batch: Vec<(usize, u8)> = keys.iter().copied().enumerate().collect();
            group(&mut batch, |text| text.1);
            let runs = batch.chunk_by(|a, b| a.1 == b.1);
            let distinct: std::collections::HashSet<u8> = keys.iter().copied().collect();
            prop_assert_eq!(runs.clone().count(), distinct.len());
            prop_assert!(runs.clone().all(|run| run.is_sorted_by_key(|text| text.0)));
            prop_assert!(runs.map(|run| run[0].0).is_sorted());
            batch.sort_unstable();
            prop_assert!(batch.iter().map(|text| text.1).eq(keys));
        }
    }
}
