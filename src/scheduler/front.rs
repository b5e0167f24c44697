//! Batches from the front of a queue, for commands that classify without a server.

use std::collections::VecDeque;

/// How many texts at the front of the queue form the next batch. `sizes` are the token counts of the texts, in the queue's order. The
/// batch has as many texts as fit into `limit` tokens, but at least one, so that a text larger than the limit runs alone.
fn batch_size(sizes: impl IntoIterator<Item = usize>, limit: usize) -> usize {
    let mut sum = 0usize;
    let fits = |(position, tokens): &(usize, usize)| {
        // A text without tokens counts as one, so that a batch ends.
        sum = sum.saturating_add((*tokens).max(1));
        *position == 0 || sum <= limit
    };
    sizes.into_iter().enumerate().take_while(fits).count()
}

/// Takes the next batch from the front of `queue`: at most `limit` tokens. A text larger than the limit runs alone.
pub fn take<T>(queue: &mut VecDeque<T>, limit: usize, tokens: impl Fn(&T) -> usize) -> Vec<T> {
    let count = batch_size(queue.iter().map(tokens), limit);
    queue.drain(..count).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
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

    proptest! {
        #[test]
        fn batch_is_the_longest_prefix_that_fits(sizes in vec(1usize..50, 0..40), limit in 1usize..100) {
            let count = batch_size(sizes.iter().copied(), limit);
            let tokens = |count: usize| sizes[..count].iter().sum::<usize>();
            prop_assert!(tokens(count) <= limit || count == 1);
            prop_assert!(count == sizes.len() || tokens(count + 1) > limit);
            prop_assert_eq!(count == 0, sizes.is_empty());
        }
    }
}
