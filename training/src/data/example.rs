//! Examples: texts with their labels.

/// The expected answer to a text.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// The id of a label.
    Class(usize),
    /// The ids of several labels, or of none, in ascending order.
    Classes(Vec<usize>),
    /// A number, for a regression.
    Value(f64),
}

impl Target {
    /// The ids of the labels; none for a regression.
    #[must_use]
    pub fn classes(&self) -> &[usize] {
        match self {
            Self::Class(class) => std::slice::from_ref(class),
            Self::Classes(classes) => classes,
            Self::Value(_) => &[],
        }
    }

    /// The number of a regression; NaN for labels.
    #[must_use]
    pub fn value(&self) -> f64 {
        if let Self::Value(value) = self { *value } else { f64::NAN }
    }
}

/// A text or pair with its label.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// The label.
    pub target: Target,
}

/// A named part of a task's data.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// `validation`, `validation_matched`, ...
    pub name: String,
    /// The split's examples, in the file's order.
    pub examples: Vec<Example>,
}
