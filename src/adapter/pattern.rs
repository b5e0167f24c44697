//! Finds the modules that a configuration adapts, and the rank and scale of each, by PEFT's rules.
//!
//! Patterns have Python's syntax. `fancy-regex` supports its look-around, and fails on a pattern that takes too long. Where the same
//! characters mean something else to it than to Python, a pattern is refused.

use std::path::{Path, PathBuf};

use fancy_regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::AdapterError;
use super::config::{self, PeftConfig};
use crate::params::{Layout, Site};

/// The key that selects the adapted modules.
const TARGETS: &str = "target_modules";

/// The most patterns of a key that are no plain names. A configuration is untrusted, and each pattern takes memory and time.
const MOST_PATTERNS: usize = 64;
/// The largest size of a compiled pattern, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;
/// The most steps back that matching a name may take.
const MOST_STEPS: usize = 10_000;

/// A linear that the configuration adapts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target<T> {
    pub(super) what: T,
    pub(super) rank: usize,
    /// `alpha / r`, or `alpha / sqrt(r)` with rsLoRA, from the module's own alpha and rank.
    pub(super) scale: f64,
}

/// The linears that a configuration adapts.
#[derive(Debug)]
pub(super) struct Targets {
    /// The adapted sites, in order of execution.
    pub(super) sites: Vec<Target<Site>>,
    /// The adapted linears of the head that a base may have (a pooler), by name.
    pub(super) head: Vec<Target<String>>,
}

/// The linears that `config` adapts.
pub(super) fn targets(file: &Path, config: &PeftConfig, layout: &Layout) -> Result<Targets, AdapterError> {
    let select = Select::new(file, config)?;
    let sizes = Sizes::new(file, config)?;
    let mut found = Targets { sites: Vec::new(), head: Vec::new() };
    let of_head = |name: &String| layout.head.iter().any(|parameter| parameter.name == format!("{name}.weight"));
    for name in &layout.other_linears {
        if !select.takes(name)? {
            continue;
        }
        if !of_head(name) {
            // PEFT would adapt this linear too, but it is not a site here. An adapter is never loaded in part.
            return Err(AdapterError::unsupported(file, TARGETS, name));
        }
        found.head.push(sizes.target(name, name.clone())?);
    }
    for name in layout.tables.iter().filter(|_| !matches!(select.wanted, Rule::AllLinear)) {
        if select.takes(name)? {
            return Err(AdapterError::unsupported(file, TARGETS, name));
        }
    }
    for site in layout.sites() {
        let name = layout.name(site);
        if select.takes(&name)? {
            found.sites.push(sizes.target(&name, site)?);
        }
    }
    if found.sites.is_empty() && found.head.is_empty() {
        return Err(AdapterError::malformed(file, "target_modules names no linear of the base's layers"));
    }
    Ok(found)
}

/// Gives each module its rank and its scale.
struct Sizes<'a> {
    file: &'a Path,
    config: &'a PeftConfig,
    ranks: Values,
    alphas: Values,
}

impl<'a> Sizes<'a> {
    fn new(file: &'a Path, config: &'a PeftConfig) -> Result<Self, AdapterError> {
        let ranks = Values::new(file, "rank_pattern", &config.rank_pattern)?;
        let alphas = Values::new(file, "alpha_pattern", &config.alpha_pattern)?;
        Ok(Self { file, config, ranks, alphas })
    }

    fn target<T>(&self, name: &str, what: T) -> Result<Target<T>, AdapterError> {
        let malformed = |reason| Err(AdapterError::malformed(self.file, reason));
        let rank = self.ranks.get(name)?.unwrap_or(self.config.rank as f64);
        if rank < 1.0 || rank.fract() != 0.0 {
            return malformed(format!("{name}: expected a rank of 1 or more, found {rank}"));
        }
        let alpha = self.alphas.get(name)?.unwrap_or(self.config.alpha);
        let scale = alpha / if self.config.use_rslora { rank.sqrt() } else { rank };
        if !(scale as f32).is_finite() {
            return malformed(format!("{name}: expected a finite scale, found {scale}"));
        }
        Ok(Target { what, rank: rank as usize, scale })
    }
}

/// A pattern of a configuration, with its file and key for errors.
struct Expression {
    regex: Regex,
    file: PathBuf,
    key: &'static str,
}

impl Expression {
    fn new(file: &Path, key: &'static str, pattern: &str) -> Result<Self, AdapterError> {
        if let Some(found) = set_operation(pattern) {
            let reason =
                format!("{key}: pattern {pattern}: {found} inside of [...] is not supported: escape it with \\");
            return Err(AdapterError::malformed(file, reason));
        }
        let error = |error| AdapterError::malformed(file, format!("{key}: pattern {pattern}: {error}"));
        let mut builder = RegexBuilder::new(pattern);
        builder.delegate_size_limit(LARGEST_PATTERN).backtrack_limit(MOST_STEPS);
        Ok(Self { regex: builder.build().map_err(error)?, file: file.to_owned(), key })
    }

    fn error(&self, error: fancy_regex::Error) -> AdapterError {
        AdapterError::malformed(&self.file, format!("{}: pattern {}: {error}", self.key, self.regex.as_str()))
    }

    fn is_match(&self, name: &str) -> Result<bool, AdapterError> {
        self.regex.is_match(name).map_err(|error| self.error(error))
    }

    /// The text that the group `idx` captures.
    fn index(&self, name: &str) -> Result<Option<String>, AdapterError> {
        let captures = self.regex.captures(name).map_err(|error| self.error(error))?;
        Ok(captures.and_then(|captures| captures.name("idx").map(|found| found.as_str().to_owned())))
    }
}

/// What the pattern has inside of a class `[...]` that `fancy-regex` takes for an operation on classes, or for a class inside the class.
/// Python takes it for plain characters, and warns that this may change.
fn set_operation(pattern: &str) -> Option<&'static str> {
    let mut rest = pattern.chars().peekable();
    let mut inside = false;
    while let Some(char) = rest.next() {
        match char {
            '\\' => {
                rest.next();
            }
            '[' if !inside => {
                inside = true;
                rest.next_if_eq(&'^');
                // As the first character it does not end the class.
                rest.next_if_eq(&']');
            }
            ']' => inside = false,
            '[' => return Some("["),
            '&' if inside && rest.peek() == Some(&'&') => return Some("&&"),
            '-' if inside && rest.peek() == Some(&'-') => return Some("--"),
            '~' if inside && rest.peek() == Some(&'~') => return Some("~~"),
            _ => {}
        }
    }
    None
}

/// How `target_modules` or `exclude_modules` selects modules.
enum Rule {
    /// `all-linear`, in `target_modules` only. In `exclude_modules` it is a regex like any other.
    AllLinear,
    Whole(Expression),
    Names(Vec<String>),
}

impl Rule {
    fn new(file: &Path, key: &'static str, targets: &config::TargetRule) -> Result<Self, AdapterError> {
        Ok(match targets {
            config::TargetRule::Pattern(pattern) if key == TARGETS && pattern.eq_ignore_ascii_case("all-linear") => {
                Self::AllLinear
            }
            // `re.fullmatch`
            config::TargetRule::Pattern(pattern) => {
                Self::Whole(Expression::new(file, key, &format!("^(?:{pattern})$"))?)
            }
            config::TargetRule::Names(names) => Self::Names(names.clone()),
        })
    }

    fn matches(&self, name: &str) -> Result<bool, AdapterError> {
        match self {
            Self::AllLinear => Ok(true),
            Self::Whole(pattern) => pattern.is_match(name),
            Self::Names(names) => Ok(names.iter().any(|listed| {
                name.strip_suffix(listed.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
            })),
        }
    }

    fn lists(&self, name: &str) -> bool {
        matches!(self, Self::Names(names) if names.iter().any(|listed| listed == name))
    }
}

/// The modules that `modules_to_save` selects. They are trained and saved in full, and are never targets.
pub(super) struct Saved {
    /// Names of letters, digits and underscores, as in nearly every file.
    names: Vec<String>,
    patterns: Vec<Expression>,
}

impl Saved {
    pub(super) fn new(file: &Path, config: &PeftConfig) -> Result<Self, AdapterError> {
        // PEFT adds these two for the task type `SEQ_CLS`.
        let all = config.modules_to_save.iter().map(String::as_str).chain(["classifier", "score"]);
        // A dot would match any character.
        let (names, patterns): (Vec<&str>, Vec<&str>) =
            all.partition(|name| Key::is_plain(name) && !name.contains('.'));
        few(file, "modules_to_save", patterns.len())?;
        Ok(Self {
            names: names.into_iter().map(str::to_owned).collect(),
            patterns: patterns.into_iter().map(|name| Self::expression(file, name)).collect::<Result<_, _>>()?,
        })
    }

    fn expression(file: &Path, name: &str) -> Result<Expression, AdapterError> {
        Expression::new(file, "modules_to_save", &format!(r"^(?:(^|.*\.){name}($|\..*))"))
    }

    /// Whether the module or tensor `name` is one of these modules, or is inside one.
    pub(super) fn holds(&self, name: &str) -> Result<bool, AdapterError> {
        let named = name.split('.').any(|part| self.names.iter().any(|name| name == part));
        Ok(named || any(&self.patterns, |pattern| pattern.is_match(name))?)
    }
}

/// Refuses too many patterns under a key.
fn few(file: &Path, key: &str, patterns: usize) -> Result<(), AdapterError> {
    if patterns <= MOST_PATTERNS {
        return Ok(());
    }
    let reason = format!("{key}: expected at most {MOST_PATTERNS} patterns that are no plain names, found {patterns}");
    Err(AdapterError::malformed(file, reason))
}

fn any<T>(items: &[T], test: impl Fn(&T) -> Result<bool, AdapterError>) -> Result<bool, AdapterError> {
    for item in items {
        if test(item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// PEFT's `check_target_module_exists`.
struct Select {
    wanted: Rule,
    excluded: Option<Rule>,
    saved: Saved,
    /// The adapted layers; empty if all are.
    layers: Vec<usize>,
    /// Patterns that capture the number of a module's layer in the group `idx`.
    layer_of: Vec<Expression>,
}

impl Select {
    fn new(file: &Path, config: &PeftConfig) -> Result<Self, AdapterError> {
        few(file, "layers_pattern", config.layers_pattern.len())?;
        let patterns = config.layers_pattern.iter().filter(|pattern| !pattern.is_empty());
        let mut layer_of: Vec<String> =
            patterns.map(|pattern| format!(r"^(?:(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.)")).collect();
        if layer_of.is_empty() {
            layer_of.push(r"^.*?\.[^.]*\.(?P<idx>\d+)\.".to_owned());
        }
        let expression = |pattern: String| Expression::new(file, "layers_pattern", &pattern);
        Ok(Self {
            wanted: Rule::new(file, TARGETS, &config.target_modules)?,
            excluded: match &config.exclude_modules {
                Some(rule) => Some(Rule::new(file, "exclude_modules", rule)?),
                None => None,
            },
            saved: Saved::new(file, config)?,
            layers: config.layers_to_transform.clone(),
            layer_of: layer_of.into_iter().map(expression).collect::<Result<_, _>>()?,
        })
    }

    fn takes(&self, name: &str) -> Result<bool, AdapterError> {
        if let Some(rule) = &self.excluded
            && rule.matches(name)?
        {
            return Ok(false);
        }
        if self.saved.holds(name)? || !self.wanted.matches(name)? {
            return Ok(false);
        }
        // A module that is listed by its full name is selected in any layer.
        if self.layers.is_empty() || self.wanted.lists(name) {
            return Ok(true);
        }
        for pattern in &self.layer_of {
            if let Some(layer) = pattern.index(name)? {
                return Ok(layer.parse().is_ok_and(|layer| self.layers.contains(&layer)));
            }
        }
        Ok(false)
    }
}

/// `rank_pattern` or `alpha_pattern`: the value of a name is that of the first key that matches it.
struct Values(Vec<(Key, f64)>);

impl Values {
    fn new(file: &Path, key: &'static str, map: &Map<String, Value>) -> Result<Self, AdapterError> {
        few(file, key, map.keys().filter(|pattern| !Key::is_plain(pattern)).count())?;
        let values = map.iter().map(|(pattern, value)| {
            let number = value.as_f64().ok_or_else(|| {
                AdapterError::malformed(file, format!("{key}: {pattern}: expected a number, found {value}"))
            })?;
            Ok((Key::new(file, key, pattern)?, number))
        });
        Ok(Self(values.collect::<Result<_, AdapterError>>()?))
    }

    fn get(&self, name: &str) -> Result<Option<f64>, AdapterError> {
        for (key, value) in &self.0 {
            if key.matches(name)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

/// A key of a pattern: PEFT's `re.match(rf"(.*\.)?({key})$", name)`.
enum Key {
    /// A key of letters, digits, underscores and dots, as in nearly every file. It is matched without a regex, because an adapter would
    /// need hundreds of them.
    Plain(String),
    Pattern(Expression),
}

impl Key {
    fn is_plain(pattern: &str) -> bool {
        pattern.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
    }

    fn new(file: &Path, key: &'static str, pattern: &str) -> Result<Self, AdapterError> {
        if Self::is_plain(pattern) {
            Ok(Self::Plain(pattern.to_owned()))
        } else {
            Ok(Self::Pattern(Expression::new(file, key, &format!(r"^(.*\.)?({pattern})$"))?))
        }
    }

    fn matches(&self, name: &str) -> Result<bool, AdapterError> {
        match self {
            Self::Plain(key) => Ok(plain_matches(key.as_bytes(), name.as_bytes())),
            Self::Pattern(pattern) => pattern.is_match(name),
        }
    }
}

/// Whether `key` matches `name`, or the end of `name` after a dot. A dot in `key` matches any character.
fn plain_matches(key: &[u8], name: &[u8]) -> bool {
    let Some(start) = name.len().checked_sub(key.len()) else { return false };
    let (before, rest) = name.split_at(start);
    (before.is_empty() || before.ends_with(b".")) && rest.iter().zip(key).all(|(n, k)| k == n || *k == b'.')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn plain_key_matches_like_its_regex(key in "[ab.]{0,6}", name in "[ab.]{0,8}") {
            let regex = Regex::new(&format!(r"^(.*\.)?({key})$")).unwrap();
            prop_assert_eq!(plain_matches(key.as_bytes(), name.as_bytes()), regex.is_match(&name).unwrap());
        }
    }

    /// Every rule and pattern gives the same result on every name as Python's `re` (`make_patterns.py`).
    #[test]
    fn patterns_match_as_in_python() {
        let file = Path::new("adapter_config.json");
        let table: Vec<Value> = serde_json::from_str(include_str!("../../tests/goldens/patterns.json")).unwrap();
        for case in &table {
            let (rule, pattern) = (case["rule"].as_str().unwrap(), case["pattern"].as_str().unwrap());
            let matches = |name: &str| -> Result<bool, AdapterError> {
                match rule {
                    "key" => Key::new(file, "rank_pattern", pattern)?.matches(name),
                    "whole" => Rule::new(file, TARGETS, &config::TargetRule::Pattern(pattern.into()))?.matches(name),
                    _ => Saved::expression(file, pattern)?.is_match(name),
                }
            };
            // Null: Python refuses this pattern, so that PEFT cannot have written it.
            let Some(names) = case["names"].as_object() else { continue };
            for (name, expected) in names {
                assert_eq!(matches(name).unwrap(), expected.as_bool().unwrap(), "{rule} {pattern:?} on {name:?}");
            }
        }
        assert!(table.len() > 100);
    }
}
