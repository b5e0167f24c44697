//! A mixed batch: the answer of serving to the seam's questions.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Adapter, Delta};
use crate::encoder::{Fork, Layout, Point, Seam, Site};
use crate::kernel::{Segment, ragged_delta, ragged_deltas};
use crate::plan::{Plan, Run};

/// Which adapter each run of rows of a packed batch takes, as planned.
pub struct Mixed<'a> {
    layout: &'a Layout,
    plan: &'a Plan,
    adapters: &'a [Arc<Adapter>],
}

impl<'a> Mixed<'a> {
    /// A batch over the sites of `layout`; the plan's adapters are numbers of `adapters`.
    #[must_use]
    pub fn new(layout: &'a Layout, plan: &'a Plan, adapters: &'a [Arc<Adapter>]) -> Self {
        Self { layout, plan, adapters }
    }

    fn runs(&self, site: Site) -> &'a [Run] {
        &self.plan.stage(self.layout.point(site)).runs
    }

    /// What `run` gets added at `site`.
    fn added(&self, site: Site, run: &Run) -> Option<&'a Delta> {
        self.adapters.get(run.adapter?)?.deltas[self.layout.index(site)].as_ref()
    }

    /// The runs whose adapter has something to add at `site`.
    fn segments(&self, site: Site) -> Vec<Segment<'_>> {
        let segment = |run: &Run| Some(Segment { rows: run.rows.clone(), delta: self.added(site, run)? });
        self.runs(site).iter().filter_map(segment).collect()
    }
}

impl Seam for Mixed<'_> {
    fn project(&self, site: Site, x: &Tensor, y: Tensor) -> Result<Tensor> {
        ragged_delta(x, y, &self.segments(site))
    }

    fn project_all(&self, sites: &[Site], x: &Tensor, linear: &dyn Fn(usize) -> Result<Tensor>) -> Result<Vec<Tensor>> {
        let segments: Vec<_> = sites.iter().map(|&site| self.segments(site)).collect();
        ragged_deltas(x, &segments, linear)
    }

    fn fork(&self, point: Point) -> Option<Fork<'_>> {
        self.plan.fork(point)
    }

    fn groups(&self, layer: usize, _tokens: usize) -> Vec<Range<usize>> {
        self.plan.stage(Point { layer, input: 0 }).runs.iter().map(|run| run.rows.clone()).collect()
    }

    fn project_shared(&self, site: Site, group: usize, x: &Tensor, y: Tensor) -> Result<Tensor> {
        match self.runs(site).get(group).and_then(|run| self.added(site, run)) {
            Some(delta) => ragged_delta(x, y.copy()?, &[Segment { rows: 0..x.dim(0)?, delta }]),
            None => Ok(y),
        }
    }
}
