//! What an extracted adapter keeps of the fine-tuned model, for the user.

use std::fmt::{self, Display, Formatter};

use polyrank::inspect;
use polyrank::params::{Layout, Site};
use serde::Serialize;

use super::change::{Change, Kind};
use super::effect::Effect;
use super::{Extraction, Kept};

/// The result that `polyrank-train extract` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExtractReport {
    /// The written adapter.
    pub adapter: inspect::Report,
    /// The budget of the deltas.
    pub budget: BudgetReport,
    /// How much of the change of the linears the deltas keep.
    pub linears: LinearsReport,
    /// Every kind of parameter that the base has.
    pub changes: Vec<ChangeReport>,
    /// What all parameters that the adapter cannot carry do together. The adapter cannot come closer to the fine-tuned model than this
    /// without distillation.
    pub all_lost: Option<Effect>,
    /// The texts on which logits were compared.
    pub compared_on: Compared,
    /// The difference of the extracted adapter's logits from those of the fine-tuned model.
    pub extracted: Effect,
    /// The same after distillation, if there was one.
    pub distilled: Option<Effect>,
    /// The number of the epoch that distillation selected; 0 is the extracted adapter.
    pub distilled_epoch: Option<usize>,
    /// The metrics on labelled data, if there are any.
    pub metrics: Vec<MetricReport>,
}

/// A budget in parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BudgetReport {
    /// The most parameters that the deltas may have.
    pub parameters: usize,
    /// All parameters of the base, embeddings included.
    pub base_parameters: usize,
}

/// How much of the change of the linears the deltas keep.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinearsReport {
    /// The Frobenius norm of what is cut off, over that of the whole change.
    pub relative_error: f64,
    /// The share of the squared Frobenius norm that each site keeps, by module and layer.
    pub kept: Shares,
}

/// A share of each module by layer. The JSON form is a map: `{"query": [0.5, 1.0, ...], ...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares(pub Vec<(&'static str, Vec<f64>)>);

impl Serialize for Shares {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(module, shares)| (module, shares)))
    }
}

/// The change of one kind of parameter, and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ChangeReport {
    /// The change.
    #[serde(flatten)]
    pub change: Change,
    /// For a kind that the adapter cannot carry: the effect on the fine-tuned model of reverting that kind alone.
    pub reverted: Option<Effect>,
}

/// The texts on which logits were compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// Whether they are texts of the data, and not random tokens.
    pub data: bool,
    /// Their number.
    pub texts: usize,
}

/// A metric of the fine-tuned model and of the adapter, on one split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricReport {
    /// The split.
    pub split: String,
    /// The metric.
    pub metric: &'static str,
    /// The fine-tuned model's value.
    pub fine_tuned: f64,
    /// The extracted adapter's value.
    pub extracted: f64,
    /// The distilled adapter's value, if there was a distillation.
    pub distilled: Option<f64>,
}

impl LinearsReport {
    /// The report on the sites of a base of `layout`.
    #[must_use]
    pub fn new(layout: &Layout, extraction: &Extraction) -> Self {
        let sites = &extraction.sites;
        let sum = |of: fn(&Kept) -> f64| sites.iter().map(of).sum::<f64>();
        let share = |layer, module| {
            let Kept { change, kept, .. } = sites[layout.index(Site { layer, module })];
            if change > 0.0 { kept / change } else { 1.0 }
        };
        let shares = |module| (0..layout.layers).map(|layer| share(layer, module)).collect();
        let modules = layout.modules.iter().enumerate();
        Self {
            relative_error: (sum(|site| site.change - site.kept).max(0.0) / sum(|site| site.change)).sqrt(),
            kept: Shares(modules.map(|(i, module)| (module.label, shares(i))).collect()),
        }
    }
}

impl ExtractReport {
    fn changes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Compared { data, texts } = self.compared_on;
        let texts = if data { format!("{texts} texts of the data") } else { format!("{texts} texts of random tokens") };
        writeln!(f, "logits compared with those of the fine-tuned model, on {texts}")?;
        writeln!(f, "{:38}  {:>10}  {:>16}  {:>9}", "", "changed by", "logit difference", "agreement")?;
        for ChangeReport { change, reverted } in &self.changes {
            let what = match change.kind {
                Kind::Linears => "linears: cut by rank".to_owned(),
                Kind::Head => "head: taken as it is".to_owned(),
                kind => format!("{}: stay those of the base", kind.name()),
            };
            let changed = format!("{:.3} %", 100.0 * change.relative);
            line(f, &what, &changed, *reverted)?;
        }
        if let Some(effect) = self.all_lost {
            line(f, "all that stay those of the base", "", Some(effect))?;
        }
        line(f, "the extracted adapter", "", Some(self.extracted))?;
        if let (Some(effect), Some(epoch)) = (self.distilled, self.distilled_epoch) {
            line(f, &format!("after distillation (epoch {epoch})"), "", Some(effect))?;
        }
        Ok(())
    }

    fn kept(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let LinearsReport { relative_error, kept } = &self.linears;
        let BudgetReport { parameters, base_parameters } = self.budget;
        let share = 100.0 * parameters as f64 / base_parameters as f64;
        writeln!(f, "budget {parameters} parameters, {share:.1} % of the base's {base_parameters}")?;
        writeln!(f, "relative error of the linears' change {relative_error:.4}; kept of its square, in %:")?;
        let widths: Vec<usize> = kept.0.iter().map(|(label, _)| label.chars().count().max(5)).collect();
        let cells = |cells: Vec<String>| -> String {
            cells.iter().zip(&widths).map(|(cell, width)| format!("  {cell:>width$}")).collect()
        };
        writeln!(f, "layer{}", cells(kept.0.iter().map(|(label, _)| (*label).to_owned()).collect()))?;
        for layer in 0..self.adapter.layers {
            let cell = |share: f64| if share > 0.0 { format!("{:.1}", 100.0 * share) } else { "·".to_owned() };
            let row = kept.0.iter().map(|(_, shares)| cell(shares[layer]));
            writeln!(f, "{layer:>5}{}", cells(row.collect()))?;
        }
        Ok(())
    }
}

fn line(f: &mut Formatter<'_>, what: &str, changed: &str, effect: Option<Effect>) -> fmt::Result {
    let difference = effect.map_or_else(String::new, |effect| format!("{:.4}", effect.difference));
    let agreement = effect.and_then(|effect| effect.agreement).map(|share| format!("{:.2} %", 100.0 * share));
    let row = format!("{what:38}  {changed:>10}  {difference:>16}  {:>9}", agreement.unwrap_or_default());
    writeln!(f, "{}", row.trim_end())
}

impl Display for ExtractReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.adapter)?;
        writeln!(f)?;
        self.kept(f)?;
        writeln!(f)?;
        self.changes(f)?;
        for MetricReport { split, metric, fine_tuned, extracted, distilled } in &self.metrics {
            let kept = |value: f64| match 100.0 * value / fine_tuned {
                share if share.is_finite() => format!("{value:.4} ({share:.2} % kept)"),
                _ => format!("{value:.4}"),
            };
            write!(f, "\n{split} {metric}: fine-tuned {fine_tuned:.4}, extracted {}", kept(*extracted))?;
            if let Some(distilled) = distilled {
                write!(f, ", distilled {}", kept(*distilled))?;
            }
        }
        Ok(())
    }
}
