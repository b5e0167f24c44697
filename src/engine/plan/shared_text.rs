//! Finds equal texts among the questions of a batch, estimates their cost, and assigns them to micro-batches.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use super::Question;
use crate::engine::micro_batches;
use crate::params::Point;
use crate::text::Encoded;

/// One text and all questions about it.
pub(super) struct SharedText {
    /// The number of tokens.
    pub(super) tokens: usize,
    /// One query for each adapter, in the order of their numbers.
    pub(super) queries: Vec<Query>,
}

/// The questions about one text to one adapter: one computation, however many questions there are.
pub(super) struct Query {
    pub(super) adapter: usize,
    pub(super) leaves: Option<Point>,
    pub(super) questions: Vec<usize>,
}

/// Groups `questions` by text, in order of first appearance.
pub(super) fn shared_texts(asked: &[Question], questions: &[usize]) -> Vec<SharedText> {
    let mut places: HashMap<(&[u32], &[u32]), usize> = HashMap::with_capacity(questions.len());
    let mut shared: Vec<SharedText> = Vec::new();
    for &question in questions {
        let Question { text: Encoded { ids, type_ids, .. }, adapter, leaves } = asked[question];
        let place = *places.entry((ids, type_ids)).or_insert(shared.len());
        if place == shared.len() {
            shared.push(SharedText { tokens: ids.len(), queries: Vec::new() });
        }
        let queries = &mut shared[place].queries;
        match queries.binary_search_by_key(&adapter, |query| query.adapter) {
            Ok(query) => queries[query].questions.push(question),
            Err(query) => queries.insert(query, Query { adapter, leaves, questions: vec![question] }),
        }
    }
    shared
}

impl SharedText {
    /// The text's work, in tokens of a whole forward pass. `share` returns the share of a forward pass that runs at a point or
    /// after it.
    fn cost(&self, share: &impl Fn(Point) -> f64) -> usize {
        let apart = |query: &Query| query.leaves.map_or(0.0, share);
        let last = self.queries.iter().map(apart).fold(1.0, f64::min);
        let rows = 1.0 - last + self.queries.iter().map(apart).sum::<f64>();
        (self.tokens as f64 * rows.max(1.0)).round() as usize
    }
}

/// The sizes of micro-batches, measured in tokens of a whole forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The least work that is worth a micro-batch.
    pub least: usize,
    /// The most work of a micro-batch. It may differ by the work of one text.
    pub most: usize,
    /// The number of micro-batches that run in parallel.
    pub cores: usize,
}

impl Sizes {
    /// The number of micro-batches for `total` work whose largest indivisible part is `largest`. Every core gets the same number of
    /// micro-batches, so that no core waits for another's last one. A micro-batch runs on one core, but a single one runs on all of
    /// them. So where micro-batches would leave half of the cores idle or more, there is a single one.
    fn count(self, total: usize, largest: usize) -> usize {
        let cores = self.cores.max(1);
        let most = total / self.least.max(largest).max(1);
        if most < 2 || 2 * most <= cores {
            return 1;
        }
        let count = total.div_ceil(self.most.max(1)).next_multiple_of(cores);
        count.min(total / self.least.max(1))
    }
}

/// The texts of `questions` in the order in which they run, and the range of them that each micro-batch runs.
pub(super) fn cut(
    asked: &[Question],
    questions: &[usize],
    share: impl Fn(Point) -> f64,
    sizes: Sizes,
) -> (Vec<SharedText>, Vec<Range<usize>>) {
    let mut shared = shared_texts(asked, questions);
    shared.sort_by_cached_key(|text| text.queries.iter().map(|query| query.adapter).collect::<Vec<_>>());
    // Adapters leave at few different points.
    let known = RefCell::new(HashMap::new());
    let share = |point| *known.borrow_mut().entry(point).or_insert_with(|| share(point));
    let costs: Vec<usize> = shared.iter().map(|text| text.cost(&share)).collect();
    let count = sizes.count(costs.iter().sum(), costs.iter().copied().max().unwrap_or(0));
    let ranges = micro_batches::divide(&costs, count);
    (shared, ranges)
}
