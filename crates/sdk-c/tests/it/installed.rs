//! The library below a prefix, as a firmware's build finds it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{example::SONAME, firmware::library, place::Parts};

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {words}");
    String::from_utf8(output.stdout).unwrap()
}

/// The libraries of this build below a folder.
fn install(prefix: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (archive, shared) = (library("libioexnode.a"), library("libioexnode.so"));
    let version = env!("CARGO_PKG_VERSION");
    let parts = Parts { root: &root, archive: &archive, shared: &shared, version, tools: "" };
    parts.place(prefix).unwrap_or_else(|e| panic!("{e}"));
    // Again, over what is there.
    parts.place(prefix).unwrap_or_else(|e| panic!("{e}"));
}

/// What pkg-config answers.
fn flags(prefix: &Path, args: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).args(args).arg("ioexnode");
    run(&mut command).split_whitespace().map(str::to_owned).collect()
}

/// A prefix that was moved is found where it is now.
#[test]
fn firmware_is_compiled_by_what_pkg_config_says_as_c_and_as_cpp() {
    let dir = tempfile::tempdir().unwrap();
    let (made, prefix) = (dir.path().join("made"), dir.path().join("prefix"));
    install(&made);
    std::fs::rename(&made, &prefix).unwrap();
    for text in ["include/ioex.h", "share/doc/ioexnode/LICENSE-MIT", "share/doc/ioexnode/LICENSE-APACHE"] {
        assert!(prefix.join(text).is_file(), "{text}");
    }
    assert_eq!(flags(&prefix, &["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/firmware.c");
    for language in [["-x", "c", "-std=c99"], ["-x", "c++", "-std=c++11"]] {
        let cc = if language[1] == "c" { "cc" } else { "c++" };
        let compiler = || {
            let mut command = Command::new(cc);
            command.args(["-Wall", "-Wextra", "-pedantic", "-Werror"]).args(language).arg(&source);
            command.args(["-x", "none"]).args(flags(&prefix, &["--cflags"]));
            command
        };
        let (shared, archive): (PathBuf, PathBuf) = (dir.path().join("shared"), dir.path().join("static"));
        run(compiler().args(flags(&prefix, &["--libs"])).arg("-o").arg(&shared));
        let needed = run(Command::new("readelf").arg("-d").arg(&shared));
        assert!(needed.contains(&format!("[{SONAME}]")), "{needed}");
        let libraries: Vec<String> = flags(&prefix, &["--libs", "--static"])
            .into_iter()
            .filter(|flag| flag != "-lioexnode" && !flag.starts_with("-L"))
            .collect();
        run(compiler().arg(prefix.join("lib/libioexnode.a")).args(libraries).arg("-o").arg(&archive));
        // Without arguments it says how it is used, and that it was.
        for program in [shared, archive] {
            let mut command = Command::new(program);
            let used = command.env("LD_LIBRARY_PATH", prefix.join("lib")).output().unwrap();
            assert_eq!(used.status.code(), Some(1), "{}", String::from_utf8_lossy(&used.stderr));
        }
    }
}

/// Firmware may have a zstd, or a BLAKE3, of its own.
#[test]
fn the_archive_has_no_names_but_its_own() {
    let dir = tempfile::tempdir().unwrap();
    install(dir.path());
    let args = ["--defined-only", "--extern-only", "--format=posix"];
    let listed = run(Command::new("nm").args(args).arg(dir.path().join("lib/libioexnode.a")));
    let names: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, _)| name)
        .filter(|name| !name.ends_with(':'))
        .collect();
    assert!(names.contains(&"ioex_node_start"), "{names:?}");
    let others: Vec<_> = names.iter().filter(|name| !name.starts_with("ioex_")).collect();
    assert!(others.is_empty(), "{others:?}");
    let own = "#include <ioex.h>\n#if IOEX_VERSION_MAJOR != 0 || !defined IOEX_VERSION_MINOR\n#error\n#endif\n\
               #include <stdio.h>\n#include <string.h>\nconst char *ZSTD_versionString(void) { return \"own\"; }\n\
               int main(void) { puts(ZSTD_versionString()); return strcmp(ioex_version(), IOEX_VERSION); }\n";
    let (source, program) = (dir.path().join("own.c"), dir.path().join("own"));
    std::fs::write(&source, own).unwrap();
    let mut cc = Command::new("cc");
    cc.arg(&source).arg("-I").arg(dir.path().join("include")).arg(dir.path().join("lib/libioexnode.a"));
    run(cc.args(crate::place::SYSTEM_LIBRARIES).arg("-o").arg(&program));
    assert_eq!(run(&mut Command::new(program)), "own\n");
}
