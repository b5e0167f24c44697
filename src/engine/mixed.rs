//! A mixed batch: the hooks that serving uses.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Result;

use super::plan::{Plan, Run};
use crate::adapter::{Adapter, Change};
use crate::encoder::{Fork, Hooks};
use crate::ops::{Added, Segment};
use crate::params::{Delta, Input, Layout, Point, Site};

/// The hooks of a planned batch: each run of rows uses its own adapter.
pub struct Mixed<'a> {
    layout: &'a Layout,
    plan: &'a Plan,
    adapters: &'a [Arc<Adapter>],
}

impl<'a> Mixed<'a> {
    /// The hooks of `plan` over the sites of `layout`. The plan refers to adapters by their index in `adapters`.
    #[must_use]
    pub fn new(layout: &'a Layout, plan: &'a Plan, adapters: &'a [Arc<Adapter>]) -> Self {
        Self { layout, plan, adapters }
    }

    fn runs(&self, site: Site) -> &'a [Run] {
        &self.plan.stage(self.layout.point(site)).runs
    }

    /// The delta of `run` at `site`.
    fn delta(&self, site: Site, run: &Run) -> Option<&'a Delta> {
        self.adapters.get(run.adapter?)?.weights.sites[self.layout.index(site)].as_ref().map(Change::delta)
    }

    /// The runs whose adapter has a delta at `site`, as segments.
    fn segments(&self, site: Site) -> Vec<Segment<'_>> {
        let segment = |run: &Run| Some(Segment { rows: run.rows.clone(), delta: self.delta(site, run)? });
        self.runs(site).iter().filter_map(segment).collect()
    }
}

impl Hooks for Mixed<'_> {
    fn added(&self, site: Site) -> Result<Added<'_>> {
        Ok(Added::Segments(self.segments(site)))
    }

    fn fork(&self, point: Point) -> Option<Fork<'_>> {
        self.plan.fork(point)
    }

    fn groups(&self, layer: usize, _tokens: usize) -> Vec<Range<usize>> {
        self.plan.stage(Point { layer, input: Input::Attention }).runs.iter().map(|run| run.rows.clone()).collect()
    }

    fn group_delta(&self, site: Site, group: usize) -> Option<&Delta> {
        self.delta(site, self.runs(site).get(group)?)
    }
}
