//! `polyrank inspect`: prints an adapter's ranks, or compares several adapters.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::Args;
use polyrank::engine::Engine;
use polyrank::inspect::{Comparison, Report};
use polyrank::params::Layout;
use polyrank::{adapter, base};
use serde::Serialize;

use super::{Failure, no_adapter, print};

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Folder of an adapter; two or more are compared side by side
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,
    /// Also check that each adapter fits this base: a folder, a hub id or `default`
    #[arg(long, value_name = "M", help_heading = "Model")]
    model_id: Option<String>,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank inspect adapters/intent
  polyrank inspect adapters/intent --model-id default
  polyrank inspect adapters/intent adapters/urgency --json";

pub(super) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let engine = match &args.model_id {
        Some(id) => Some(Engine::open(&base::ensure(id)?, &Device::Cpu)?),
        None => None,
    };
    let look = |dir: &Path| -> Result<(Layout, Report), Failure> {
        let found = match &engine {
            Some(engine) => engine.load_adapter(dir).map(|adapter| (engine.layout().clone(), adapter)),
            None => adapter::peek(dir).map_err(Into::into),
        };
        let (layout, adapter) = found.map_err(|error| no_adapter(dir, error))?;
        let report = Report::new(&layout, &adapter);
        Ok((layout, report))
    };
    if let [dir] = &*args.dirs {
        return show(&look(dir)?.1, args.json);
    }
    let mut adapters = Vec::new();
    for dir in &args.dirs {
        let (layout, report) = look(dir)?;
        adapters.push((dir.clone(), layout, report));
    }
    show(&Comparison::new(adapters)?, args.json)
}

fn show<T: Display + Serialize>(found: &T, json: bool) -> Result<(), Failure> {
    if json { print(format_args!("{}", serde_json::to_string(found)?)) } else { print(format_args!("{found}")) }
}
