//! The settings of how a run is carried out. Apart from the device's rounding, they do not change its result, so that a run may be
//! continued with others.

use clap::Args;
use clap::builder::BoolishValueParser;
use polyrank::params::DeviceName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::check;
use crate::error::{Error, wrong};

/// How a run is carried out.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
pub struct RunSettings {
    /// Keep the checkpoints of all epochs, not only the best and the last.
    #[arg(long, env = "POLYRANK_TRAIN_KEEP_CHECKPOINTS", value_parser = BoolishValueParser::new(), help_heading = "Run")]
    pub keep_checkpoints: bool,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, env = "POLYRANK_TRAIN_DEVICE", default_value = "cpu", help_heading = "Device")]
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub device: DeviceName,
    /// Number of steps between two lines of run/steps.jsonl; on a GPU at least 32.
    #[arg(long, env = "POLYRANK_TRAIN_LOG_EVERY", value_name = "STEPS", default_value_t = 10, help_heading = "Run")]
    pub log_every: usize,
    /// Save a checkpoint each time after this many steps, besides those at the end of epochs [default: only those].
    #[arg(long, env = "POLYRANK_TRAIN_CHECKPOINT_EVERY", value_name = "STEPS", help_heading = "Run")]
    pub checkpoint_every: Option<usize>,
}

impl RunSettings {
    /// Checks the values.
    ///
    /// # Errors
    /// A number is 0 or too large.
    pub fn check(&self) -> Result<(), Error> {
        for (flag, count) in [("--log-every", Some(self.log_every)), ("--checkpoint-every", self.checkpoint_every)] {
            match count {
                Some(0) => return wrong(flag, "1 or more", 0),
                Some(count) if count > check::MOST => {
                    return wrong(flag, format_args!("at most {}", check::MOST), count);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn to_text<S: Serializer>(device: &DeviceName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(device)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DeviceName, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}
