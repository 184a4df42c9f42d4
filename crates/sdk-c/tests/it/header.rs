//! The header is what cbindgen makes of the crate.

use std::{env, fs, path::Path};

#[test]
fn the_header_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let numbers = version.split('.').zip(["MAJOR", "MINOR", "PATCH"]);
    let lines = numbers.map(|(number, name)| format!("#define IOEX_VERSION_{name} {number}\n"));
    config.after_includes = Some(format!(
        "\n/* Of this header; `ioex_version()` is that of the library. */\n{}#define IOEX_VERSION \"{version}\"",
        lines.collect::<String>()
    ));
    let mut builder = cbindgen::Builder::new().with_config(config);
    // File by file: asking cargo for the crate would need the registry.
    for file in ["error", "event", "files", "reason", "state", "calls"] {
        builder = builder.with_src(root.join(format!("src/{file}.rs")));
    }
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    // Sections for Rust's readers, and C's names where Rust has its own.
    let made = String::from_utf8(made).unwrap().replace(" * # Safety\n", " * The caller's word:\n");
    let path = root.join("include/ioex.h");
    if env::var_os("IOEX_WRITE_HEADER").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "{} is not current: `IOEX_WRITE_HEADER=1 cargo test -p ioex-sdk-c header` writes it",
        path.display()
    );
}
