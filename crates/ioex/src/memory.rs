//! What the C library's allocator is told, by the kind of build.
//!
//! The allocator learns: once a large block was freed, it takes blocks of that size from the heap, and
//! keeps as much of the heap's end. A device that measured its surroundings once then holds on to the
//! peak of that minute for ever: on a phone behind a NAT 4.3 MB where 2.1 MB are in use (`cargo xtask
//! bench network device`). With fixed thresholds large blocks are mapped and given back one by one.
//!
//! In a build with super nodes, where shards come and go all the time, that costs a tenth of a backup's time. What
//! its memory grows by is arenas: the allocator makes up to eight for each processor, and a shard that
//! is freed in one of them is of no use in the others. With one for each processor the peak of a backup
//! and a restore was 138 and 151 MB instead of 196 to 231, in the same time (`cargo xtask bench vault`'s
//! tree and network).

/// From this size on, in bytes, a block is mapped by itself, and so much may stay free at the heap's end.
/// It is where the allocator begins before it learns.
#[cfg(not(feature = "super"))]
const LARGE_BYTES: libc::c_int = 128 * 1024;

/// Fewest arenas of a build with super nodes.
#[cfg(feature = "super")]
const ARENAS_MIN: usize = 2;

/// Tells the allocator. Call it before other threads start.
#[allow(unsafe_code)]
pub(crate) fn set_up() {
    // SAFETY: `mallopt` takes two numbers and touches nothing but the allocator's settings. What it
    // answers is whether it knows the parameter; without it memory is only larger.
    #[cfg(not(feature = "super"))]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BYTES);
    }
    #[cfg(feature = "super")]
    {
        let processors = std::thread::available_parallelism().map_or(ARENAS_MIN, usize::from);
        let arenas = libc::c_int::try_from(processors.max(ARENAS_MIN)).unwrap_or(libc::c_int::MAX);
        // SAFETY: as above.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, arenas);
        }
    }
}
