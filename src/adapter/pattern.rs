//! Which modules a configuration means, and the rank and alpha of each, by PEFT's rules.

use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use super::AdapterError;
use super::config::{PeftConfig, Targets};
use crate::encoder::{Layout, Site};

/// The longest pattern that is compiled; PEFT writes a few hundred bytes.
const LONGEST_PATTERN: usize = 1 << 16;

/// A site that the configuration adapts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Target {
    pub(super) site: Site,
    pub(super) rank: usize,
    pub(super) scale: f64,
}

/// The sites that `config` adapts, in order of execution.
pub(super) fn targets(path: &Path, config: &PeftConfig, layout: &Layout) -> Result<Vec<Target>, AdapterError> {
    let Some(wanted) = &config.target_modules else {
        return Err(AdapterError::malformed(path, "target_modules is missing"));
    };
    let select = Select { path, config, wanted: Rule::new(path, "target_modules", wanted)?, excluded: excluded(path, config)? };
    if config.layers_to_transform.is_some() && matches!(wanted, Targets::Pattern(_)) {
        return Err(AdapterError::malformed(path, "layers_to_transform does not go with target_modules as a string"));
    }
    // PEFT would adapt these too; here they are no sites, and half an adapter is none.
    for name in &layout.other_linears {
        if select.takes(name)? {
            return Err(AdapterError::unsupported(path, "target_modules", name));
        }
    }
    let (ranks, alphas) = (Values::new(path, "rank_pattern", &config.rank_pattern)?, Values::new(path, "alpha_pattern", &config.alpha_pattern)?);
    let mut found = Vec::new();
    for site in layout.sites() {
        let name = layout.name(site);
        if !select.takes(&name)? {
            continue;
        }
        let rank = ranks.get(&name).map_or(config.r as f64, |rank| rank);
        if rank < 1.0 || rank.fract() != 0.0 || rank > 65_536.0 {
            return Err(AdapterError::malformed(path, format!("{name}: expected a rank of 1 or more, found {rank}")));
        }
        let alpha = alphas.get(&name).unwrap_or(config.lora_alpha);
        let scale = alpha / if config.use_rslora { rank.sqrt() } else { rank };
        found.push(Target { site, rank: rank as usize, scale });
    }
    if found.is_empty() {
        return Err(AdapterError::malformed(path, "target_modules matches no linear of the base"));
    }
    Ok(found)
}

fn excluded(path: &Path, config: &PeftConfig) -> Result<Option<Rule>, AdapterError> {
    config.exclude_modules.as_ref().map(|rule| Rule::new(path, "exclude_modules", rule)).transpose()
}

/// Patterns are anchored at both ends, as `re.fullmatch` does.
fn compile(path: &Path, key: &str, pattern: &str) -> Result<Regex, AdapterError> {
    if pattern.len() > LONGEST_PATTERN {
        return Err(AdapterError::malformed(path, format!("{key}: a pattern of {} bytes", pattern.len())));
    }
    Regex::new(pattern).map_err(|error| AdapterError::malformed(path, format!("{key}: {error}")))
}

enum Rule {
    AllLinear,
    Whole(Regex),
    Names(Vec<String>),
}

impl Rule {
    fn new(path: &Path, key: &str, targets: &Targets) -> Result<Self, AdapterError> {
        Ok(match targets {
            Targets::Pattern(pattern) if pattern == "all-linear" => Self::AllLinear,
            Targets::Pattern(pattern) => Self::Whole(compile(path, key, &format!("^(?:{pattern})$"))?),
            Targets::Names(names) => Self::Names(names.clone()),
        })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::AllLinear => true,
            Self::Whole(regex) => regex.is_match(name),
            Self::Names(names) => names.iter().any(|suffix| is_suffix(name, suffix)),
        }
    }
}

/// The whole name, or what follows a dot in it.
fn is_suffix(name: &str, suffix: &str) -> bool {
    name == suffix || name.strip_suffix(suffix).is_some_and(|before| before.ends_with('.'))
}

struct Select<'a> {
    path: &'a Path,
    config: &'a PeftConfig,
    wanted: Rule,
    excluded: Option<Rule>,
}

impl Select<'_> {
    /// PEFT's `check_target_module_exists`, and its rule that nothing under `modules_to_save` is a target.
    fn takes(&self, name: &str) -> Result<bool, AdapterError> {
        let saved = self.config.modules_to_save.iter().flatten();
        let mut saved = saved.map(String::as_str).chain(["classifier", "score"]);
        if saved.any(|module| name.split('.').any(|part| part == module)) {
            return Ok(false);
        }
        if self.excluded.as_ref().is_some_and(|rule| rule.matches(name)) || !self.wanted.matches(name) {
            return Ok(false);
        }
        let Some(layers) = &self.config.layers_to_transform else { return Ok(true) };
        // A name equal to a listed one is taken whatever its layer.
        if matches!(&self.wanted, Rule::Names(names) if names.iter().any(|whole| whole == name)) {
            return Ok(true);
        }
        Ok(self.layer(name)?.is_some_and(|layer| layers.as_slice().contains(&layer)))
    }

    fn layer(&self, name: &str) -> Result<Option<usize>, AdapterError> {
        let patterns = self.config.layers_pattern.as_ref().map_or(&[][..], |patterns| patterns.as_slice());
        let any = [r"[^.]*".to_owned()];
        for pattern in if patterns.is_empty() { &any } else { patterns } {
            let regex = compile(self.path, "layers_pattern", &format!(r"^.*\.{pattern}\.(\d+)\."))?;
            if let Some(layer) = regex.captures(name).and_then(|found| found.get(1)) {
                return Ok(layer.as_str().parse().ok());
            }
        }
        Ok(None)
    }
}

/// `rank_pattern` or `alpha_pattern`: the first key that matches a name gives its value.
struct Values(Vec<(Regex, f64)>);

impl Values {
    fn new(path: &Path, key: &str, map: &Option<Map<String, Value>>) -> Result<Self, AdapterError> {
        let values = map.iter().flatten().map(|(pattern, value)| {
            // `re.match(rf"(.*\.)?({key})$", name)`: anchored at the start by `match`.
            let regex = compile(path, key, &format!(r"^(?:.*\.)?(?:{pattern})$"))?;
            let value = value.as_f64().filter(|value| value.is_finite()).ok_or_else(|| {
                AdapterError::malformed(path, format!("{key}: {pattern}: expected a number, found {value}"))
            })?;
            Ok((regex, value))
        });
        Ok(Self(values.collect::<Result<_, AdapterError>>()?))
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(regex, _)| regex.is_match(name)).map(|&(_, value)| value)
    }
}
