//! Names the shared library as programs ask for it.

fn main() {
    let major = std::env::var("CARGO_PKG_VERSION_MAJOR").unwrap_or_default();
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libioexnode.so.{major}");
    println!("cargo::rerun-if-changed=build.rs");
}
