//! What the benches share: random operands, bare products as the floor, and fits of times.

use std::error::Error;

pub(crate) mod fit;
pub(crate) mod product;
pub(crate) mod random;

/// Any failure.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The allocator of the binary, so that buffers cost here what they cost there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
