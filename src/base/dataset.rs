//! Fetches a dataset of the hub as a task's folder.

use std::path::Path;

use serde_json::{Value, json};

use super::ModelError;
use super::cache::Sources;
use super::files::DATASET;
use super::hub::{Hub, is_commit};
use super::progress::Progress;
use super::recipe::Recipe;
use super::splits::{self, Plan};
use crate::atomic_file;

/// The branch on which the hub keeps a copy of every public dataset as Parquet, a folder for each configuration and split.
const CONVERTED: &str = "refs/convert/parquet";

/// A dataset on the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dataset<'a> {
    /// The id, `ORG/NAME`.
    pub id: &'a str,
    /// The configuration, such as a task of GLUE. A dataset that has only one needs no name of it.
    pub config: Option<&'a str>,
    /// A branch, tag or commit, instead of `main`.
    pub revision: Option<&'a str>,
}

impl Dataset<'_> {
    /// The name of the task: the configuration, or the dataset's name without its owner.
    #[must_use]
    pub fn task(&self) -> &str {
        self.config.unwrap_or_else(|| self.id.rsplit('/').next().unwrap_or(self.id))
    }

    /// `ORG--NAME`, with `@` and the revision, and with `+` and the configuration, where they are given.
    pub(super) fn folder_name(&self) -> String {
        let config = self.config.map_or_else(String::new, |config| format!("+{}", config.replace('/', "%2F")));
        let recipe = Recipe { id: self.id, revision: self.revision.unwrap_or("main"), pins: &[], wheel: None };
        format!("{}{config}", recipe.folder_name())
    }
}

/// Fetches the splits of a dataset into the folder `dir`, all from one commit.
pub(super) fn fetch(sources: &Sources, asked: &Dataset, dir: &Path, progress: &dyn Progress) -> Result<(), ModelError> {
    let wrong = |reason: String| ModelError::Dataset { id: asked.id.to_owned(), reason };
    let main = listing(sources, asked, asked.revision.unwrap_or("main"))?
        .ok_or_else(|| wrong(format!("{} has no such dataset or revision", sources.endpoint)))?;
    let (listing, plan) = match splits::plan(&main.files, asked.config) {
        Ok(plan) => (main, plan),
        Err(reason) if asked.revision.is_some() => return Err(wrong(reason)),
        // The hub knows how to read files that have unusual names or formats.
        Err(reason) => match listing(sources, asked, CONVERTED)? {
            Some(converted) => {
                let plan = splits::plan(&converted.files, asked.config).map_err(wrong)?;
                (converted, plan)
            }
            None => return Err(wrong(reason)),
        },
    };
    let id = format!("datasets/{}", asked.id);
    let recipe = Recipe { id: &id, revision: &listing.commit, pins: &[], wheel: None };
    let hub = Hub::new(sources, &recipe, dir, progress);
    for (name, to) in &plan.files {
        if !hub.save(name, &dir.join(to))? {
            return Err(wrong(format!("{name} is listed but missing in the commit {}", listing.commit)));
        }
    }
    describe(asked, &listing, &plan, dir)
}

/// Writes what was fetched, for the user.
fn describe(asked: &Dataset, listing: &Listing, plan: &Plan, dir: &Path) -> Result<(), ModelError> {
    let files: Vec<&str> = plan.files.iter().map(|(name, _)| name.as_str()).collect();
    let facts = json!({"dataset": asked.id, "config": plan.config, "commit": listing.commit, "files": files});
    let path = dir.join(DATASET);
    atomic_file::write(&path, format!("{facts:#}\n").as_bytes()).map_err(ModelError::io(&path))
}

/// The files of a dataset at one commit.
struct Listing {
    commit: String,
    files: Vec<String>,
}

/// Lists the files of a revision; `None` if the hub knows no such dataset or revision.
fn listing(sources: &Sources, asked: &Dataset, revision: &str) -> Result<Option<Listing>, ModelError> {
    let id = format!("datasets/{}", asked.id);
    let recipe = Recipe { id: &id, revision, pins: &[], wheel: None };
    let hub = Hub::new(sources, &recipe, Path::new(""), &());
    let Some(answer) = hub.api(&format!("{id}/revision/{}", recipe.escaped_revision()))? else { return Ok(None) };
    let commit = answer["sha"].as_str().filter(|sha| is_commit(sha));
    let name = |file: &Value| file["rfilename"].as_str().map(str::to_owned);
    let files = answer["siblings"].as_array().map(|files| files.iter().filter_map(name).collect());
    match (commit, files) {
        (Some(commit), Some(files)) => Ok(Some(Listing { commit: commit.to_owned(), files })),
        _ => Err(ModelError::Dataset {
            id: asked.id.to_owned(),
            reason: format!("{}: expected a commit and its files, found {answer}", sources.endpoint),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_tells_dataset_revision_and_configuration() {
        let name = |config, revision| Dataset { id: "org/name", config, revision }.folder_name();
        assert_eq!(name(None, None), "org--name");
        assert_eq!(name(Some("sst2"), None), "org--name+sst2");
        assert_eq!(name(Some("a/b"), Some("refs/pr/1")), "org--name@refs%2Fpr%2F1+a%2Fb");
    }
}
