//! The limits of settings that do not depend on the data or the base.

use polyrank::params::{DeviceName, Precision};

use super::{MethodName, Select, Settings};
use crate::error::{Error, wrong};
use crate::method::sora::GateRule;

/// The largest count. The product of two counts does not overflow; that of more may.
pub(super) const MOST: usize = u32::MAX as usize;

/// The largest whole number in TOML, in which a run's settings are stored.
const LARGEST: u64 = i64::MAX as u64;

impl Settings {
    /// Checks the values that do not depend on the data or the base. The value of a default is not checked. A value that no method takes
    /// is refused with any method; values that contradict each other only with a method that has these settings.
    ///
    /// # Errors
    /// A value is invalid, or settings contradict each other.
    pub fn check(&self) -> Result<(), Error> {
        let counts = [
            ("--rank", Some(self.rank)),
            ("--epochs", self.epochs),
            ("--batch-size", self.batch_size),
            ("--max-length", self.max_length),
            ("--init-rank", self.init_rank),
            ("--delta-t", self.delta_t),
            ("--export-rank", self.export_rank),
            ("--bottleneck", self.bottleneck),
            ("--accumulate", Some(self.accumulate)),
            ("--patience", self.patience),
        ];
        for (flag, count) in given(counts) {
            if !(1..=MOST).contains(&count) {
                return wrong(flag, if count == 0 { "1 or more".into() } else { format!("at most {MOST}") }, count);
            }
        }
        if let (Some(patience), Select::Last) = (self.patience, self.select) {
            return wrong("--patience", "--select best, because with last no epoch is better than another", patience);
        }
        if let Some(epochs) = self.dropout_after.filter(|epochs| *epochs > MOST) {
            return wrong("--dropout-after", format_args!("at most {MOST}"), epochs);
        }
        let large = [("--seed", Some(self.seed)), ("--target-params", self.target_params.map(|kept| kept as u64))];
        for (flag, number) in given(large) {
            if number > LARGEST {
                return wrong(flag, format_args!("at most {LARGEST}"), number);
            }
        }
        for (flag, size) in given([("--lr", self.lr), ("--alpha", Some(self.alpha)), ("--clip", Some(self.clip))]) {
            if !(size > 0.0 && size.is_finite()) {
                return wrong(flag, "a positive number", size);
            }
        }
        let sizes = [
            ("--weight-decay", Some(self.weight_decay)),
            ("--sparse-lambda", self.sparse_lambda),
            ("--xi", self.xi),
            ("--lambda", self.lambda),
            ("--gate-lr", self.gate_lr),
            ("--orth-reg-weight", self.orth_reg_weight),
            ("--depth-bias", Some(self.depth_bias)),
        ];
        for (flag, size) in given(sizes) {
            if !(size >= 0.0 && size.is_finite()) {
                return wrong(flag, "0 or a positive number", size);
            }
        }
        self.check_threshold()?;
        self.check_ranks()?;
        self.check_plans()?;
        match (self.dropout, self.warmup) {
            (Some(p), _) if !(0.0..1.0).contains(&p) => wrong("--dropout", "0 or more and below 1", p),
            (_, warmup) if !(0.0..=1.0).contains(&warmup) => wrong("--warmup", "from 0 to 1", warmup),
            _ => Ok(()),
        }
    }

    /// Checks the ranks and phases of AdaLoRA, the rank of DyLoRA's adapter, and the precision of full fine-tuning.
    fn check_ranks(&self) -> Result<(), Error> {
        let (method, rank) = (self.method, self.rank);
        let phases = [("--tinit", self.tinit()), ("--tfinal", self.tfinal())];
        if let Some((flag, share)) = phases.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return wrong(flag, "from 0 to 1", share);
        }
        match (method, self.init_rank, self.export_rank) {
            (MethodName::AdaLora, Some(init), _) if init < rank => {
                wrong("--init-rank", format_args!("at least the rank {rank}"), init)
            }
            (MethodName::DyLora, _, Some(export)) if export > rank => {
                wrong("--export-rank", format_args!("at most the rank {rank}"), export)
            }
            (MethodName::AdaLora, ..) if self.tinit() + self.tfinal() >= 1.0 => {
                let found = format_args!("{} and {}", self.tinit(), self.tfinal());
                wrong("--tinit and --tfinal", "shares whose sum is below 1", found)
            }
            (MethodName::Full, ..) if self.dtype == Precision::Int8 => {
                wrong("--dtype", "f32 with the method full, which trains the weights themselves", "int8")
            }
            _ => Ok(()),
        }
    }

    /// Checks that the precision has an effect on `device`. On a CPU, only weights that stay as they are have one of their own.
    ///
    /// # Errors
    /// It has none.
    pub fn check_on(&self, device: DeviceName) -> Result<(), Error> {
        if self.method == MethodName::Full && self.dtype == Precision::Bf16 && device == DeviceName::Cpu {
            return wrong(
                "--dtype",
                "f32 with the method full on a CPU, which multiplies trained weights in f32",
                "bf16",
            );
        }
        Ok(())
    }

    /// Checks the numbers of epochs of a run that was made longer.
    fn check_plans(&self) -> Result<(), Error> {
        let plans: Vec<usize> = self.extended_from.iter().copied().chain(self.epochs).collect();
        let rise = plans.first() != Some(&0) && plans.windows(2).all(|pair| pair[0] < pair[1]);
        if rise || self.extended_from.is_empty() {
            return Ok(());
        }
        let plans: Vec<String> = plans.iter().map(usize::to_string).collect();
        wrong("--extended-from", "numbers that rise from 1 or more up to --epochs", plans.join(", "))
    }

    /// Checks the four settings of which one gives the threshold, and that adaptive gates have what they need.
    fn check_threshold(&self) -> Result<(), Error> {
        if let Some(ratio) = self.target_ratio.filter(|ratio| !(*ratio > 0.0 && *ratio <= 1.0)) {
            return wrong("--target-ratio", "above 0 and at most 1", ratio);
        }
        if self.method != MethodName::Sora {
            return Ok(());
        }
        let thresholds = [
            ("--target-ratio", self.target_ratio),
            ("--target-params", self.target_params.map(|kept| kept as f64)),
            ("--xi", self.xi),
            ("--lambda", self.lambda),
        ];
        let found: Vec<&str> = given(thresholds).map(|(flag, _)| flag).collect();
        if found.len() > 1 {
            return wrong(
                "threshold",
                "one of --target-ratio, --target-params, --xi and --lambda",
                found.join(" and "),
            );
        }
        match &*found {
            [flag @ ("--xi" | "--lambda")] if self.gate == Some(GateRule::Adaptive) => {
                wrong("--gate adaptive", "--target-ratio or --target-params, which say how many ranks to keep", flag)
            }
            _ if self.depth_bias > 0.0 && self.gate() != GateRule::Adaptive => {
                wrong("--depth-bias", "adaptive gates, which have a saliency", "other gates")
            }
            _ => Ok(()),
        }
    }
}

/// Checks that `rank` is at most `most`.
pub(super) fn rank_at_most(flag: &str, most: usize, rank: usize) -> Result<(), Error> {
    if rank > most {
        return wrong(flag, format_args!("at most {most}, the smaller side of the adapted linears"), rank);
    }
    Ok(())
}

/// Checks that a bottleneck is at most four times as wide as the base, whose width is `width`: a wider one is a mistake that would take all
/// memory.
pub(super) fn bottleneck_at_most(width: usize, bottleneck: usize) -> Result<(), Error> {
    let most = 4 * width;
    if bottleneck > most {
        return wrong("--bottleneck", format_args!("at most {most}, four times the width of the base"), bottleneck);
    }
    Ok(())
}

/// Checks that the number of parameters to keep, if it is given, is from `least` to `all`.
pub(super) fn target_params(least: usize, all: usize, kept: Option<usize>) -> Result<(), Error> {
    match kept {
        Some(kept) if !(least..=all).contains(&kept) => {
            wrong("--target-params", format_args!("from {least}, one rank of the smallest linear, to {all}"), kept)
        }
        _ => Ok(()),
    }
}

/// Those of `values` that are not left to their defaults.
fn given<T, const N: usize>(values: [(&'static str, Option<T>); N]) -> impl Iterator<Item = (&'static str, T)> {
    values.into_iter().filter_map(|(flag, value)| Some((flag, value?)))
}
