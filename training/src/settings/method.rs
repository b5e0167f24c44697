//! Makes the method that the settings name.

use std::collections::BTreeSet;

use polyrank::engine::Engine;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{MethodName, Settings, check};
use crate::defaults::TaskSize;
use crate::error::{Error, wrong};
use crate::method::adalora::{AdaLora, AdaLoraSettings};
use crate::method::sora::{Sora, SoraSettings, Threshold};
use crate::method::{BottleneckAdapter, DyLora, Lora, LowRankSettings, Method, TrainedHead, bitfit, full};

impl Settings {
    /// The method with fresh variables, for the base of `engine` and a task of this size.
    /// Only this function knows all methods by name.
    ///
    /// # Errors
    /// As [`Self::modules`]; the rank is too large for the adapted modules; `--target-params` or `--target-ratio` is not a possible number
    /// of parameters; `--bottleneck` is too large for the base; the base of BitFit has no biases; or a tensor operation fails.
    pub fn method(&self, engine: &Engine, size: TaskSize) -> Result<Box<dyn Method>, Error> {
        let labels = size.labels;
        let (layout, backend, encoder) = (engine.layout(), engine.backend(), &**engine.encoder());
        let head = || TrainedHead::new(layout, labels, &mut StdRng::seed_from_u64(self.seed), backend.device());
        let shape = |rank| self.low_rank(engine, labels, rank);
        Ok(match self.method {
            MethodName::Sora => {
                let (shape, sora) = (shape(self.rank)?, self.sora(self.hyperparameters(size, engine).lr));
                self.check_target(engine, &shape)?;
                Box::new(Sora::new(layout, &shape, sora, backend)?)
            }
            MethodName::Lora => Box::new(Lora::new(layout, &shape(self.rank)?, backend)?),
            MethodName::AdaLora => {
                // The target must fit, too.
                shape(self.rank)?;
                Box::new(AdaLora::new(layout, &shape(self.init_rank())?, self.adalora(), backend)?)
            }
            MethodName::DyLora => {
                let export_rank = self.export_rank.unwrap_or(self.rank);
                Box::new(DyLora::new(layout, &shape(self.rank)?, export_rank, backend)?)
            }
            MethodName::BitFit => {
                let bitfit = bitfit(encoder, head()?)?;
                if bitfit.report()?.parameters == 0 {
                    return wrong("--method bitfit", "a base with biases", "one without");
                }
                Box::new(bitfit)
            }
            MethodName::Adapter => {
                check::bottleneck_at_most(engine.config().hidden_size, self.bottleneck())?;
                Box::new(BottleneckAdapter::new(layout, self.bottleneck(), self.seed, head()?, backend)?)
            }
            MethodName::Full => Box::new(full(encoder, head()?)?),
        })
    }

    /// The settings of AdaLoRA's budget and penalty.
    fn adalora(&self) -> AdaLoraSettings {
        AdaLoraSettings {
            target_rank: self.rank,
            tinit: self.tinit(),
            tfinal: self.tfinal(),
            delta_t: self.delta_t,
            orth_reg_weight: self.orth_reg_weight(),
        }
    }

    /// The settings of the gates, in a run with the peak learning rate `lr`.
    fn sora(&self, lr: f64) -> SoraSettings {
        SoraSettings {
            gate: self.gate(),
            threshold: self.threshold(),
            gate_rate: self.gate_lr.map_or(1.0, |gate_lr| gate_lr / lr),
            sparse_lambda: self.sparse_lambda(),
            depth_bias: self.depth_bias,
        }
    }

    /// Checks that the target is at least one rank of an adapted linear and at most all ranks of all of them.
    fn check_target(&self, engine: &Engine, shape: &LowRankSettings) -> Result<(), Error> {
        let layout = engine.layout();
        let costs = shape.modules.iter().map(|&module| &layout.modules[module]);
        let costs: Vec<usize> = costs.map(|module| module.in_features + module.out_features).collect();
        let all = shape.rank * layout.layers * costs.iter().sum::<usize>();
        let least = costs.into_iter().min().unwrap_or(0);
        match self.threshold() {
            Threshold::Ratio(ratio) if ratio * (all as f64) < least as f64 => {
                let share = least as f64 / all as f64;
                wrong(
                    "--target-ratio",
                    format_args!("{share:.5} or more, which is one rank of the smallest linear"),
                    ratio,
                )
            }
            _ => check::target_params(least, all, self.target_params),
        }
    }

    /// The indices of the adapted modules.
    ///
    /// # Errors
    /// A name is not a module of the base.
    pub fn modules(&self, engine: &Engine) -> Result<Vec<usize>, Error> {
        let modules = &engine.layout().modules;
        let find = |name: &String| {
            let found =
                modules.iter().position(|m| m.name == name || m.label == name || m.label.replace(' ', "_") == *name);
            found.ok_or_else(|| {
                let known: Vec<_> = modules.iter().map(|m| m.name).collect();
                Error::Settings(format!(
                    "--target-modules: unknown module {name:?}; expected one of {}",
                    known.join(", ")
                ))
            })
        };
        if self.target_modules.is_empty() {
            return Ok((0..modules.len()).collect());
        }
        let mut found = self.target_modules.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        // A module that is named twice is adapted once.
        let mut seen = BTreeSet::new();
        found.retain(|&module| seen.insert(module));
        Ok(found)
    }

    /// The flag that gives the rank `rank` of the factors, for messages.
    fn rank_flag(&self, rank: usize) -> &'static str {
        match self.init_rank {
            _ if rank == self.rank => "--rank",
            Some(_) => "--init-rank",
            None => "--init-rank, by default one and a half times --rank",
        }
    }

    /// The shapes of low-rank factors.
    fn low_rank(&self, engine: &Engine, labels: usize, rank: usize) -> Result<LowRankSettings, Error> {
        let modules = self.modules(engine)?;
        let sizes = modules.iter().map(|&module| &engine.layout().modules[module]);
        let most = sizes.map(|module| module.in_features.min(module.out_features)).max().unwrap_or(0);
        check::rank_at_most(self.rank_flag(rank), most, rank)?;
        Ok(LowRankSettings { rank, alpha: self.alpha, modules, labels, seed: self.seed })
    }
}
