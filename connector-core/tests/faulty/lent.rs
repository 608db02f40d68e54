//! Memory that a store gives out and still writes to, which the contract forbids.
#![expect(unsafe_code, reason = "implements a region that breaks its promise, so that the kit can find it")]

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

    /// Overwrites as many bytes as it has.
    pub(crate) fn overwrite(&self, bytes: &[u8]) {
        for (cell, byte) in self.0.iter().zip(bytes) {
            cell.store(*byte, Ordering::SeqCst);
        }
    }

    pub(crate) fn chunk(&self, layout: ChunkLayout) -> Result<MemoryObj> {
        MemoryObj::from_region(self.clone(), layout)
    }
}

// SAFETY: the memory is one initialised allocation, and lives as long as the region. A region promises that the memory
// does not change. Here it does, but only through atomics, and only while no test holds a slice of it.
unsafe impl Region for Lent {
    fn as_ptr(&self) -> NonNull<u8> {
        NonNull::from(&*self.0).cast()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
