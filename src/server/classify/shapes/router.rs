//! The shape of the semantic router's `http_classify` (contract `label_distribution.v1`) and of the pipeline of `transformers`:
//! `{"inputs": "text"}` posted to `/classify`. One text gets the flat list of its labels. The body names no adapter; the request's host
//! does, or the setting `--default-adapter`.

use super::super::super::error::ApiError;
use super::super::host_label::HostLabel;
use super::super::json;
use super::super::request::{Adapters, ClassifyRequest};
use super::polyrank::Body;

/// Reads the body.
pub(in crate::server::classify) fn parse(body: &[u8], host: HostLabel) -> Result<ClassifyRequest, ApiError> {
    json::read::<Body>(body)?.checked(Adapters::Implied { host: host.0 })
}
