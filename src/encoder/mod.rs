//! Encoders, written once over the seam.
mod batch;
mod seam;
mod site;
pub use batch::{Encoded, Packed};
pub use seam::{AttentionDropout, DropPoint, Identity, Seam};
pub use site::{Dim, HeadParameter, Layout, Module, Site};
