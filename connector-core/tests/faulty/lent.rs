//! Memory that its owner goes on writing to: what a store must not give out.
#![expect(unsafe_code, reason = "describes memory that breaks what a region promises, to see that it is noticed")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use connector_core::{ChunkLayout, MemoryObj, Region, Result};

#[derive(Clone)]
pub(crate) struct Lent(Arc<[AtomicU8]>);

impl Lent {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|b| AtomicU8::new(*b)).collect())
    }

    /// Writes over what it can.
    pub(crate) fn overwrite(&self, bytes: &[u8]) {
        for (cell, byte) in self.0.iter().zip(bytes) {
            cell.store(*byte, Ordering::SeqCst);
        }
    }

    pub(crate) fn chunk(&self, layout: ChunkLayout) -> Result<MemoryObj> {
        MemoryObj::from_region(self.clone(), layout)
    }
}

// SAFETY: the memory is one allocation, initialised, and lives as long as the region. It is written to while it is lent,
// which a region promises not to happen: only through atomics, and only while no test holds a slice of it.
unsafe impl Region for Lent {
    fn as_ptr(&self) -> NonNull<u8> {
        NonNull::from(&*self.0).cast()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
