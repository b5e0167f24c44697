//! What a batch runs, as a value: which texts start, where their rows part, whose deltas each row gets at each site.
//!
//! Equal texts asked of several adapters are one text, the *trunk*, for as long as its adapters leave the base alone. At the point
//! of its first active site ([`crate::adapter::Adapter::leaves`]) an adapter gets rows of its own, copied from the trunk's; the
//! last of them takes the trunk's along. So a text of one adapter has its own rows from the start, and no row is computed twice.

mod family;

use std::ops::Range;

pub use self::family::Sizes;
use self::family::{Family, families};
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
    /// From the embeddings on, then from each point at which rows part, in order.
    pub stages: Vec<Stage>,
    /// What is read of the last stage's texts, by adapter.
    pub heads: Vec<Head>,
}

/// The rows between two points at which some part.
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
pub struct Head {
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
    let (families, passes) = family::cut(asked, questions, share, sizes);
    passes.into_iter().map(|pass| Plan::of(&families[pass])).collect()
}

/// A text's rows at some stage, and which of its family's adapters they stand for.
#[derive(Clone)]
struct Line {
    family: usize,
    asks: Vec<usize>,
}

impl Line {
    fn adapter(&self, families: &[Family]) -> Option<usize> {
        match self.asks[..] {
            [ask] => Some(families[self.family].asks[ask].adapter),
            _ => None,
        }
    }

    /// What it becomes at `point`: a line for each adapter that leaves there, and one for those that stay.
    fn part(&self, point: Point, families: &[Family]) -> Vec<Self> {
        let leaves = |ask: &usize| families[self.family].asks[*ask].leaves == Some(point);
        let (leaving, staying): (Vec<usize>, Vec<usize>) = self.asks.iter().copied().partition(|ask| leaves(ask));
        let lines = leaving.into_iter().map(|ask| vec![ask]).chain((!staying.is_empty()).then_some(staying));
        lines.map(|asks| Self { family: self.family, asks }).collect()
    }
}

impl Plan {
    /// The pass that answers `asked`, each of `questions` once.
    #[must_use]
    pub fn new(asked: &[Asked], questions: &[usize]) -> Self {
        Self::of(&families(asked, questions))
    }

    fn of(families: &[Family]) -> Self {
        let order = |line: &Line| (line.adapter(families), line.family);
        let tokens = |line: &Line| families[line.family].tokens;
        let mut lines: Vec<Line> =
            families.iter().enumerate().map(|(family, f)| Line { family, asks: (0..f.asks.len()).collect() }).collect();
        lines.sort_by_key(order);
        let texts = lines.iter().map(|line| families[line.family].asks[0].questions[0]).collect();
        let mut stages = vec![Stage::new(None, Vec::new(), &lines, families)];
        for point in points(families) {
            let old = &stages[stages.len() - 1].offsets;
            let mut parted: Vec<(Line, usize)> = Vec::new();
            for (line, &start) in lines.iter().zip(old) {
                parted.extend(line.part(point, families).into_iter().map(|line| (line, start)));
            }
            if parted.len() > lines.len() {
                parted.sort_by_key(|(line, _)| order(line));
                let rows = |(line, start): &(Line, usize)| *start as u32..(start + tokens(line)) as u32;
                let rows = parted.iter().flat_map(rows).collect();
                lines = parted.into_iter().map(|(line, _)| line).collect();
                stages.push(Stage::new(Some(point), rows, &lines, families));
            }
        }
        Self { texts, stages, heads: heads(&lines, families) }
    }

    /// The stage at `point`.
    #[must_use]
    pub fn stage(&self, point: Point) -> &Stage {
        &self.stages[self.stages.partition_point(|stage| stage.from <= Some(point)).saturating_sub(1)]
    }

    /// How the rows part at `point`, where they do.
    #[must_use]
    pub fn fork(&self, point: Point) -> Option<Fork<'_>> {
        let Stage { from, rows, offsets, .. } = self.stage(point);
        (*from == Some(point)).then_some(Fork { rows, offsets })
    }

    /// Where the texts that the heads read begin, and `T` at the end: `[B + 1]`.
    #[must_use]
    pub fn last(&self) -> &[usize] {
        self.stages.last().map_or(&[], |stage| &stage.offsets)
    }
}

impl Stage {
    fn new(from: Option<Point>, rows: Vec<u32>, lines: &[Line], families: &[Family]) -> Self {
        let mut stage = Self { from, rows, offsets: vec![0], runs: Vec::new() };
        let mut end = 0;
        for line in lines {
            let (adapter, start) = (line.adapter(families), end);
            end += families[line.family].tokens;
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
fn points(families: &[Family]) -> Vec<Point> {
    let shared = families.iter().filter(|family| family.asks.len() > 1);
    let mut points: Vec<Point> = shared.flat_map(|family| family.asks.iter().filter_map(|ask| ask.leaves)).collect();
    points.sort_unstable();
    points.dedup();
    points
}

/// What is read of the last lines: of one, by each of the adapters that never left it.
fn heads(lines: &[Line], families: &[Family]) -> Vec<Head> {
    let of_line = |(text, line): (usize, &Line)| {
        let asks = line.asks.iter().map(|&ask| &families[line.family].asks[ask]);
        asks.map(|ask| (ask.adapter, text, ask.questions.clone())).collect::<Vec<_>>()
    };
    let mut answers: Vec<_> = lines.iter().enumerate().flat_map(of_line).collect();
    answers.sort_by_key(|&(adapter, text, _)| (adapter, text));
    let mut heads: Vec<Head> = Vec::new();
    for (adapter, text, questions) in answers {
        match heads.last_mut() {
            Some(head) if head.adapter == adapter => {
                head.texts.push(text);
                head.questions.push(questions);
            }
            _ => heads.push(Head { adapter, texts: vec![text], questions: vec![questions] }),
        }
    }
    heads
}

#[cfg(test)]
mod tests;
