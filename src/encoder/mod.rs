//! Encoders, written once over the seam (filled in by the owner of encoder/).
mod batch;
mod site;
pub use batch::{Encoded, Packed};
pub use site::{Dim, HeadParameter, Layout, Module, Site};
