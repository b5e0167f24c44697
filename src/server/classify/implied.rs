//! The adapter of a request that names none: the one that the request's host names, or else the default adapter.

use std::sync::Arc;
use std::time::Instant;

use super::super::app::App;
use super::super::error::ApiError;
use super::super::unknown_hosts::Known;
use crate::registry::{Pin, RegistryError};

/// Pins the adapter that the host names, or else the default adapter. Upper and lower case are the same in a host, so that the adapter
/// may also have the host's name in lower case.
pub(super) async fn pin(app: &Arc<App>, host: Option<String>) -> Result<Pin, ApiError> {
    let lower = host.as_ref().map(|name| name.to_ascii_lowercase()).filter(|lower| host.as_ref() != Some(lower));
    for name in host.iter().chain(&lower) {
        if let Some(pin) = named(app, name).await? {
            return Ok(pin);
        }
    }
    match &app.config().default_adapter {
        Some(name) => Ok(app.registry().pin(name).await?),
        None => Err(ApiError::NoAdapter { host }),
    }
}

/// The adapter of this name; `None` if there is none.
async fn named(app: &Arc<App>, name: &str) -> Result<Option<Pin>, ApiError> {
    if let Some(pin) = app.registry().pinned(name) {
        return Ok(Some(pin));
    }
    // An adapter that was taken out of service is missed. Another one's answer would hide that.
    if app.registry().is_withdrawn(name) {
        return Err(RegistryError::NotFound { name: name.into() }.into());
    }
    let known = match &app.config().default_adapter {
        Some(_) => app.unknown_hosts().known(name, Instant::now()),
        None => Known::Nothing,
    };
    match known {
        Known::NoAdapter => Ok(None),
        Known::Expired => {
            let (app, name) = (Arc::clone(app), name.to_owned());
            tokio::spawn(async move { look_up(&app, &name).await });
            Ok(None)
        }
        Known::Nothing => Ok(look_up(app, name).await?),
    }
}

/// Looks for the adapter of this name, also on the disk.
async fn look_up(app: &Arc<App>, name: &str) -> Result<Option<Pin>, RegistryError> {
    let found = match app.registry().pin(name).await {
        Err(RegistryError::NotFound { .. }) if app.registry().is_withdrawn(name) => {
            Err(RegistryError::NotFound { name: name.into() })
        }
        Err(RegistryError::NotFound { .. } | RegistryError::OutsideRoot { .. }) => Ok(None),
        found => found.map(Some),
    };
    match &found {
        Err(error) if !error.is_of_adapter() => app.unknown_hosts().keep(name, Instant::now()),
        found => app.unknown_hosts().note(name, matches!(found, Ok(None)), Instant::now()),
    }
    found
}
