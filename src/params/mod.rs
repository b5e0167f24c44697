//! The types that all other modules use: parameters, the places that adapters change, and where operations run.
//!
//! | type | idea |
//! | --- | --- |
//! | [`Frozen`] | a parameter of the base, mapped or on a device |
//! | [`Param`] | a parameter as an operation reads it: the base's, or a tensor in its place |
//! | [`Delta`] | the low-rank change of one linear |
//! | [`Prepacked`], [`Precision`] | a linear's weight, packed once for the CPU's matrix products |
//! | [`Site`], [`Layout`] | the linears that adapters change, and their names |
//! | [`Backend`] | which form of the operations runs, and on which device |

mod backend;
mod delta;
mod device;
mod frozen;
mod param;
mod prepacked;
mod site;

pub use backend::{Backend, Form};
pub use delta::Delta;
pub use device::{DeviceError, DeviceName};
pub(crate) use frozen::Data;
pub use frozen::Frozen;
pub use param::Param;
pub use prepacked::{COLUMNS, Precision, Prepacked, Words};
pub use site::{Dim, HeadParameter, Input, Layout, Module, NamedSite, Point, Site};
