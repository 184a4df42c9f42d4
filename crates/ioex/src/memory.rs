//! Memory that a small device gets back.
//!
//! The C library's allocator learns: once a large block was freed, it takes blocks of that size from
//! the heap, and keeps as much of the heap's end. A node that measured its surroundings once then
//! holds on to the peak of that minute for ever: on a phone behind a NAT 4.3 MB where 2.1 MB are
//! in use (`cargo xtask bench network device`). With fixed thresholds large blocks are mapped and
//! given back one by one. On a server, where large blocks come and go all the time, that would cost
//! more than it gives.

/// From this size on, in bytes, a block is mapped by itself, and so much may stay free at the heap's end.
/// It is where the allocator begins before it learns.
const LARGE_BYTES: libc::c_int = 128 * 1024;

/// Keeps the allocator from learning. Call it before other threads start.
#[allow(unsafe_code)]
pub(crate) fn give_back() {
    // SAFETY: `mallopt` takes two numbers and touches nothing but the allocator's settings. What it
    // answers is whether it knows the parameter; without it memory is only larger.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BYTES);
    }
}
