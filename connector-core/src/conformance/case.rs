//! The parts of a check that outlive its store.

use std::sync::Arc;

use super::names::Names;
use super::watch::Watch;
use crate::PoolAllocator;

/// The pool of each check, in bytes: room for more than two chunks of the largest size. The pool allocates on demand.
const POOL_BYTES: usize = 256 << 20;

/// The memory, the keys and the calls of one check.
#[derive(Clone)]
pub(super) struct Case {
    /// The memory that the store reads into.
    pub(super) pool: PoolAllocator,
    /// The memory of the chunks to put.
    pub(super) chunks: PoolAllocator,
    pub(super) names: Arc<Names>,
    pub(super) watch: Watch,
}

impl Case {
    pub(super) fn new(names: &Arc<Names>) -> Self {
        let (pool, chunks) = (PoolAllocator::new(POOL_BYTES), PoolAllocator::new(POOL_BYTES));
        Self { pool, chunks, names: names.clone(), watch: Watch::new() }
    }
}
