//! The plan of a batch, as a value: which texts run, where their rows fork, and whose deltas each row gets at each site.
//!
//! If several adapters classify the same text, it runs once, as a *trunk*, until an adapter changes it. At the point of its first
//! active site ([`crate::adapter::Adapter::leaves`]), an adapter gets rows of its own, copied from the trunk's. The last adapter to
//! leave takes over the trunk's rows without a copy. A text of one adapter has that adapter's rows from the start, and no row is
//! computed twice.
//!
//! Behind the last layer's attention, most heads read only the first token of each text. The plan has a stage for that too: it takes over
//! the first row of each text and leaves the others out.

mod shared_text;

use std::ops::Range;

pub use self::shared_text::Sizes;
use self::shared_text::{SharedText, shared_texts};
use crate::encoder::Fork;
use crate::params::Point;
use crate::text::Encoded;

/// One question: a text that an adapter is to classify.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The text, with at least one token.
    pub text: &'a Encoded,
    /// The number of the adapter. Rows of one adapter are kept together, in the order of these numbers.
    pub adapter: usize,
    /// The point at which the adapter's rows first differ from the base's; `None` if only its head differs.
    pub leaves: Option<Point>,
}

/// One forward pass that answers some questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The texts at the start, in the order of their rows: for each, the index of a question with that text.
    pub texts: Vec<usize>,
    /// The stages in order: the first begins at the embeddings, the others at the points at which rows fork, or at which only the first
    /// token of each text stays.
    pub stages: Vec<Stage>,
    /// What each adapter's head reads from the texts of the last stage.
    pub readouts: Vec<Readout>,
}

/// The rows that are computed from one fork to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The point at which the stage begins; `None` is the embeddings.
    pub from: Option<Point>,
    /// For each row, the row of the previous stage that it copies, `[T]`; empty for the first stage.
    pub rows: Vec<u32>,
    /// The first row of each text, then `T`: `[B + 1]`.
    pub offsets: Vec<usize>,
    /// All rows grouped by adapter, in order and without gaps. The trunks, which belong to no adapter, come first.
    pub runs: Vec<Run>,
}

/// A range of rows that get the same deltas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The rows.
    pub rows: Range<usize>,
    /// The adapter whose deltas they get; `None` is the bare base.
    pub adapter: Option<usize>,
}

/// What one adapter's head reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readout {
    /// The adapter.
    pub adapter: usize,
    /// The texts of the last stage, in ascending order.
    pub texts: Vec<usize>,
    /// For each text, the questions that it answers.
    pub questions: Vec<Vec<usize>>,
}

/// The micro-batches that answer `questions`, none of them empty. All questions about one text are in one micro-batch; texts with
/// the same adapters are next to each other. From `first_tokens` on, only the first token of each text is computed
/// ([`crate::encoder::Encoder::first_tokens_from`]). `share` returns the share of a token's work that runs at a point or after it.
///
/// Micro-batches have nearly equal work. All questions form a single micro-batch if there is too little work for two, or if one text
/// has more work than all the others together.
#[must_use]
pub fn plans(
    asked: &[Question],
    questions: &[usize],
    first_tokens: Option<Point>,
    share: impl Fn(Point) -> f64,
    sizes: Sizes,
) -> Vec<Plan> {
    let (shared, ranges) = shared_text::cut(asked, questions, share, sizes);
    ranges.into_iter().map(|range| Plan::of(&shared[range], first_tokens)).collect()
}

/// The rows of a text at one stage, and the queries that they serve.
#[derive(Clone)]
struct Branch {
    text: usize,
    queries: Vec<usize>,
}

impl Branch {
    fn adapter(&self, shared: &[SharedText]) -> Option<usize> {
        match self.queries[..] {
            [query] => Some(shared[self.text].queries[query].adapter),
            _ => None,
        }
    }

    /// The branches into which it splits at `point`: one for each adapter that leaves, and one for those that stay.
    fn split(&self, point: Point, shared: &[SharedText]) -> Vec<Self> {
        let leaves = |query: &usize| shared[self.text].queries[*query].leaves == Some(point);
        let (leaving, staying): (Vec<usize>, Vec<usize>) =
            self.queries.iter().copied().partition(|query| leaves(query));
        let branches = leaving.into_iter().map(|query| vec![query]).chain((!staying.is_empty()).then_some(staying));
        branches.map(|queries| Self { text: self.text, queries }).collect()
    }
}

impl Plan {
    /// The plan of one forward pass that answers each of `questions`, indices into `asked`, once. From `first_tokens` on, only the
    /// first token of each text is computed.
    #[must_use]
    pub fn new(asked: &[Question], questions: &[usize], first_tokens: Option<Point>) -> Self {
        Self::of(&shared_texts(asked, questions), first_tokens)
    }

    fn of(shared: &[SharedText], first_tokens: Option<Point>) -> Self {
        let order = |branch: &Branch| (branch.adapter(shared), branch.text);
        let mut branches: Vec<Branch> = shared
            .iter()
            .enumerate()
            .map(|(text, asked)| Branch { text, queries: (0..asked.queries.len()).collect() })
            .collect();
        branches.sort_by_key(order);
        let texts = branches.iter().map(|branch| shared[branch.text].queries[0].questions[0]).collect();
        let mut stages = vec![Stage::new(None, Vec::new(), &branches, (shared, false))];
        // Where all texts are single tokens, there is nothing to leave out.
        let first_tokens = first_tokens.filter(|_| shared.iter().any(|text| text.tokens > 1));
        for point in points(shared, first_tokens) {
            let old = &stages[stages.len() - 1].offsets;
            let narrow = first_tokens.is_some_and(|from| from <= point);
            let tokens = |branch: &Branch| if narrow { 1 } else { shared[branch.text].tokens };
            let mut forked: Vec<(Branch, usize)> = Vec::new();
            for (branch, &start) in branches.iter().zip(old) {
                forked.extend(branch.split(point, shared).into_iter().map(|branch| (branch, start)));
            }
            if forked.len() > branches.len() || first_tokens == Some(point) {
                forked.sort_by_key(|(branch, _)| order(branch));
                let rows = |(branch, start): &(Branch, usize)| *start as u32..(start + tokens(branch)) as u32;
                let rows = forked.iter().flat_map(rows).collect();
                branches = forked.into_iter().map(|(branch, _)| branch).collect();
                stages.push(Stage::new(Some(point), rows, &branches, (shared, narrow)));
            }
        }
        Self { texts, stages, readouts: readouts(&branches, shared) }
    }

    /// The stage at `point`.
    #[must_use]
    pub fn stage(&self, point: Point) -> &Stage {
        &self.stages[self.stages.partition_point(|stage| stage.from <= Some(point)).saturating_sub(1)]
    }

    /// The fork at `point`, or `None` if no rows fork there.
    #[must_use]
    pub fn fork(&self, point: Point) -> Option<Fork<'_>> {
        let Stage { from, rows, offsets, .. } = self.stage(point);
        (*from == Some(point)).then_some(Fork { rows, offsets })
    }

    /// The first row of each text that the readouts read, then `T`: `[B + 1]`.
    #[must_use]
    pub fn last(&self) -> &[usize] {
        self.stages.last().map_or(&[], |stage| &stage.offsets)
    }
}

impl Stage {
    /// The stage of `branches` of the shared texts, each with all of its tokens, or with only the first one if it is narrow.
    fn new(from: Option<Point>, rows: Vec<u32>, branches: &[Branch], (shared, narrow): (&[SharedText], bool)) -> Self {
        let mut stage = Self { from, rows, offsets: vec![0], runs: Vec::new() };
        let mut end = 0;
        for branch in branches {
            let (adapter, start) = (branch.adapter(shared), end);
            end += if narrow { 1 } else { shared[branch.text].tokens };
            stage.offsets.push(end);
            match stage.runs.last_mut() {
                Some(run) if run.adapter == adapter => run.rows.end = end,
                _ => stage.runs.push(Run { rows: start..end, adapter }),
            }
        }
        stage
    }

    /// Number of rows, `T`.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }
}

/// The points at which adapters leave a shared text, and `also` one more, in order.
fn points(shared: &[SharedText], also: Option<Point>) -> Vec<Point> {
    let shared = shared.iter().filter(|text| text.queries.len() > 1);
    let leaves = shared.flat_map(|text| text.queries.iter().filter_map(|query| query.leaves));
    let mut points: Vec<Point> = leaves.chain(also).collect();
    points.sort_unstable();
    points.dedup();
    points
}

/// The readouts of the last branches. Every adapter that still shares a branch reads it.
fn readouts(branches: &[Branch], shared: &[SharedText]) -> Vec<Readout> {
    let of_branch = |(text, branch): (usize, &Branch)| {
        let queries = branch.queries.iter().map(|&query| &shared[branch.text].queries[query]);
        queries.map(|query| (query.adapter, text, query.questions.clone())).collect::<Vec<_>>()
    };
    let mut answers: Vec<_> = branches.iter().enumerate().flat_map(of_branch).collect();
    answers.sort_by_key(|&(adapter, text, _)| (adapter, text));
    let mut readouts: Vec<Readout> = Vec::new();
    for (adapter, text, questions) in answers {
        match readouts.last_mut() {
            Some(readout) if readout.adapter == adapter => {
                readout.texts.push(text);
                readout.questions.push(questions);
            }
            _ => readouts.push(Readout { adapter, texts: vec![text], questions: vec![questions] }),
        }
    }
    readouts
}

#[cfg(test)]
mod tests;
