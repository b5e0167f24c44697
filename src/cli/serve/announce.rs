//! What a server says about itself once, when it is ready.

use std::path::Path;

use polyrank::adapter::NAMES;
use polyrank::logging::printable;
use polyrank::registry::FirstAdapters;
use polyrank::server::App;

/// The file that makes a folder an adapter.
const ADAPTER: &str = NAMES[0];

/// The number of adapters that are named.
const NAMED: usize = 5;

/// Logs what is served, and what looks wrong with the folder of adapters.
pub(super) fn announce(app: &App) {
    let (config, engine) = (app.config(), app.engine());
    let root = &config.adapters;
    let first = app.registry().first(NAMED);
    let preloaded = if config.preload.is_empty() { "none".to_owned() } else { config.preload.join(", ") };
    tracing::info!(
        base = config.model_id,
        dtype = engine.precision().name(),
        device = engine.backend().name(),
        adapters = first.as_ref().map_or_else(|_| "not known".to_owned(), count_and_names),
        preloaded,
        "ready"
    );
    let first = match first {
        Ok(first) => first,
        Err(error) => return tracing::warn!("{}: {error}", root.display()),
    };
    if root.join(ADAPTER).is_file() {
        let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (root, parent) = (root.display(), parent.display());
        tracing::warn!("{root} is itself an adapter: to serve it, pass the folder around it: --adapters {parent}");
    } else if first.names.is_empty() {
        tracing::warn!("{}: no adapter yet: no subfolder has an {ADAPTER}", root.display());
    }
    if !first.unreadable.is_empty() {
        let names = printable(&first.unreadable.join(", "));
        tracing::warn!("{}: the disk fails for folders, which may have adapters: {names}", root.display());
    }
    if !first.outside.is_empty() {
        let names = printable(&first.outside.join(", "));
        tracing::warn!("{}: links that lead outside of this folder are not served: {names}", root.display());
    }
}

/// The number of adapters, or that there are more than those that are named, and the first ones' names.
fn count_and_names(first: &FirstAdapters) -> String {
    let names = first.names.join(", ");
    match (first.names.len(), first.others) {
        (0, _) => "none".to_owned(),
        (found, false) => format!("{found} ({names})"),
        (found, true) => format!("more than {found} ({names}, ...)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_first_adapters() {
        let count_and_names = |names: &[&str], others| {
            let names = names.iter().copied().map(str::to_owned).collect();
            count_and_names(&FirstAdapters { names, others, ..FirstAdapters::default() })
        };
        assert_eq!(count_and_names(&[], false), "none");
        assert_eq!(count_and_names(&["a", "b", "group/inner"], false), "3 (a, b, group/inner)");
        assert_eq!(count_and_names(&["a", "b"], true), "more than 2 (a, b, ...)");
    }
}
