//! What a batch runs, as a value: which texts start, where their rows fork, whose deltas each row gets at each site.
//!
//! Equal texts asked of several adapters are one text, the *trunk*, for as long as its adapters leave the base alone. At the point
//! of its first active site ([`crate::adapter::Adapter::leaves`]) an adapter gets rows of its own, copied from the trunk's; the
//! last of them takes the trunk's along. So a text of one adapter has its own rows from the start, and no row is computed twice.

mod shared_text;

use std::ops::Range;

pub use self::shared_text::Sizes;
use self::shared_text::{SharedText, shared_texts};
use crate::encoder::Fork;
use crate::params::Point;
use crate::text::Encoded;

/// One question: a text asked of an adapter.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The text, of one token at least.
    pub text: &'a Encoded,
    /// Number of the adapter; rows of an adapter are kept together, in the order of these numbers.
    pub adapter: usize,
    /// Where the adapter's rows leave the base's; `None` is at the head.
    pub leaves: Option<Point>,
}

/// One forward pass over some questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The texts that start, in the rows' order: for each, a question with that text.
    pub texts: Vec<usize>,
    /// From the embeddings on, then from each point at which rows fork, in order.
    pub stages: Vec<Stage>,
    /// What is read of the last stage's texts, by adapter.
    pub readouts: Vec<Readout>,
}

/// The rows between two points at which some fork.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Where it begins; `None` is at the embeddings.
    pub from: Option<Point>,
    /// Which row of the stage before each row goes on from, `[T]`; empty for the first stage.
    pub rows: Vec<u32>,
    /// Where each text begins, and `T` at the end: `[B + 1]`.
    pub offsets: Vec<usize>,
    /// All rows by adapter, in order, without gaps; those of no adapter, the trunks, come first.
    pub runs: Vec<Run>,
}

/// Rows that get the same deltas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which rows.
    pub rows: Range<usize>,
    /// Whose deltas; `None` is the bare base.
    pub adapter: Option<usize>,
}

/// What one adapter's head reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readout {
    /// The adapter.
    pub adapter: usize,
    /// Which of the last stage's texts, rising.
    pub texts: Vec<usize>,
    /// For each of them, the questions that it answers.
    pub questions: Vec<Vec<usize>>,
}

/// The passes that answer `questions`, none empty. All questions about one text are in one pass; texts of the same adapters are
/// next to each other. `share` says what part of a token's work comes at a point or after it
/// ([`crate::params::Layout::share_from`]).
///
/// Passes are for the cores, side by side. So all questions are one pass where there is too little work for two, or where one text
/// has more of it than all others.
#[must_use]
pub fn plans(asked: &[Asked], questions: &[usize], share: impl Fn(Point) -> f64, sizes: Sizes) -> Vec<Plan> {
    let (shared, passes) = shared_text::cut(asked, questions, share, sizes);
    passes.into_iter().map(|pass| Plan::of(&shared[pass])).collect()
}

/// The rows of a text at some stage, and the queries of it that they stand for.
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

    /// What it becomes at `point`: a branch for each adapter that leaves there, and one for those that stay.
    fn split(&self, point: Point, shared: &[SharedText]) -> Vec<Self> {
        let leaves = |query: &usize| shared[self.text].queries[*query].leaves == Some(point);
        let (leaving, staying): (Vec<usize>, Vec<usize>) =
            self.queries.iter().copied().partition(|query| leaves(query));
        let branches = leaving.into_iter().map(|query| vec![query]).chain((!staying.is_empty()).then_some(staying));
        branches.map(|queries| Self { text: self.text, queries }).collect()
    }
}

impl Plan {
    /// The pass that answers `asked`, each of `questions` once.
    #[must_use]
    pub fn new(asked: &[Asked], questions: &[usize]) -> Self {
        Self::of(&shared_texts(asked, questions))
    }

    fn of(shared: &[SharedText]) -> Self {
        let order = |branch: &Branch| (branch.adapter(shared), branch.text);
        let tokens = |branch: &Branch| shared[branch.text].tokens;
        let mut branches: Vec<Branch> = shared
            .iter()
            .enumerate()
            .map(|(text, asked)| Branch { text, queries: (0..asked.queries.len()).collect() })
            .collect();
        branches.sort_by_key(order);
        let texts = branches.iter().map(|branch| shared[branch.text].queries[0].questions[0]).collect();
        let mut stages = vec![Stage::new(None, Vec::new(), &branches, shared)];
        for point in points(shared) {
            let old = &stages[stages.len() - 1].offsets;
            let mut forked: Vec<(Branch, usize)> = Vec::new();
            for (branch, &start) in branches.iter().zip(old) {
                forked.extend(branch.split(point, shared).into_iter().map(|branch| (branch, start)));
            }
            if forked.len() > branches.len() {
                forked.sort_by_key(|(branch, _)| order(branch));
                let rows = |(branch, start): &(Branch, usize)| *start as u32..(start + tokens(branch)) as u32;
                let rows = forked.iter().flat_map(rows).collect();
                branches = forked.into_iter().map(|(branch, _)| branch).collect();
                stages.push(Stage::new(Some(point), rows, &branches, shared));
            }
        }
        Self { texts, stages, readouts: readouts(&branches, shared) }
    }

    /// The stage at `point`.
    #[must_use]
    pub fn stage(&self, point: Point) -> &Stage {
        &self.stages[self.stages.partition_point(|stage| stage.from <= Some(point)).saturating_sub(1)]
    }

    /// How the rows fork at `point`, where they do.
    #[must_use]
    pub fn fork(&self, point: Point) -> Option<Fork<'_>> {
        let Stage { from, rows, offsets, .. } = self.stage(point);
        (*from == Some(point)).then_some(Fork { rows, offsets })
    }

    /// Where the texts that the readouts read begin, and `T` at the end: `[B + 1]`.
    #[must_use]
    pub fn last(&self) -> &[usize] {
        self.stages.last().map_or(&[], |stage| &stage.offsets)
    }
}

impl Stage {
    fn new(from: Option<Point>, rows: Vec<u32>, branches: &[Branch], shared: &[SharedText]) -> Self {
        let mut stage = Self { from, rows, offsets: vec![0], runs: Vec::new() };
        let mut end = 0;
        for branch in branches {
            let (adapter, start) = (branch.adapter(shared), end);
            end += shared[branch.text].tokens;
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

/// Where adapters leave a text that others share, in order.
fn points(shared: &[SharedText]) -> Vec<Point> {
    let shared = shared.iter().filter(|text| text.queries.len() > 1);
    let mut points: Vec<Point> = shared.flat_map(|text| text.queries.iter().filter_map(|query| query.leaves)).collect();
    points.sort_unstable();
    points.dedup();
    points
}

/// What is read of the last branches: of one, by each of the adapters that never left it.
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
