//! The C library as firmware uses it: its header, and the example program against real nodes.

// Not all of it: it is also for running the example under emulation.
#[allow(dead_code)]
mod example;
mod firmware;
mod header;
mod installed;
// The same network of processes that the program's own tests use.
#[allow(dead_code)]
#[path = "../../../ioex/tests/it/net.rs"]
mod net;

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

// What `cargo xtask sdk install` does.
#[path = "../../../../xtask/src/sdk/place.rs"]
mod place;

/// Where cargo puts programs and libraries: the folder above the one with this test.
fn target() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

/// The program `ioex`. It belongs to another package, so cargo does not say where it is.
fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| target().join("ioex"));
    assert!(PROGRAM.exists(), "no {}: `cargo build -p ioex` makes it", PROGRAM.display());
    &PROGRAM
}
