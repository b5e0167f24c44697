//! Reports on finished runs: tables in Markdown and CSV, and figures as SVG and PNG. Where the runs came from does not matter.
//!
//! | module | idea |
//! | --- | --- |
//! | `trained` | what a run of `train` left in its folder |
//! | `recorded` | what a sweep's results say of runs whose folders are gone |
//! | `stages` | what Algorithm 1 (`polyrank-train schedule`) left in its folder |
//! | `tree` | finds both in a tree of folders |
//! | `group` | runs that differ only in their seed, and the settings in which groups differ |
//! | `statistics` | mean and standard deviation |
//! | `tables` | the SoRA paper's tables 1 to 4 |
//! | `table` | a table as Markdown and as CSV |
//! | `figure` | the figures |
//! | `write` | the files of a report |

mod figure;
#[cfg(test)]
mod fixtures;
mod group;
mod recorded;
mod stages;
mod statistics;
mod table;
mod tables;
mod trained;
mod tree;
mod write;

pub use self::statistics::Statistic;
pub(crate) use self::trained::text;
pub use self::trained::{EpochLine, Exported, StepLine, TrainedOn, TrainedRun};
pub(crate) use self::tree::RESULTS;
pub use self::write::{Written, write};
