//! Where the parts of the C library go below a prefix. The library's own test places those of its build in the same way.

use std::{fs, io, os::unix::fs::symlink, path::Path, process::Command};

/// Begins the names of all that a program may use.
const PUBLIC: &str = "ioex_";
/// What the archive needs of the system: `rustc --print native-static-libs` names these.
pub(crate) const SYSTEM_LIBRARIES: [&str; 7] =
    ["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"];

/// What is placed.
pub(crate) struct Parts<'a> {
    /// The repository's root.
    pub(crate) root: &'a Path,
    /// The archive, as cargo made it.
    pub(crate) archive: &'a Path,
    /// The shared library, as cargo made it.
    pub(crate) shared: &'a Path,
    /// Such as `0.1.0`.
    pub(crate) version: &'a str,
    /// Begins the names of the tools for another machine's programs, such as `aarch64-linux-gnu-`.
    pub(crate) tools: &'a str,
}

impl Parts<'_> {
    /// Puts header, libraries, what pkg-config reads, and licences below a folder.
    ///
    /// # Errors
    /// The system's, or what a tool said.
    pub(crate) fn place(&self, prefix: &Path) -> io::Result<()> {
        let folder = |name: &str| fs::create_dir_all(prefix.join(name)).map(|()| prefix.join(name));
        let (include, lib) = (folder("include")?, folder("lib")?);
        let (pkgconfig, doc) = (folder("lib/pkgconfig")?, folder("share/doc/ioexnode")?);
        fs::copy(self.root.join("crates/sdk-c/include/ioex.h"), include.join("ioex.h"))?;
        for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
            fs::copy(self.root.join(name), doc.join(name))?;
        }
        let file = format!("libioexnode.so.{}", self.version);
        fs::copy(self.shared, lib.join(&file))?;
        let major = self.version.split('.').next().unwrap_or_default();
        for link in [format!("libioexnode.so.{major}"), "libioexnode.so".to_owned()] {
            let path = lib.join(link);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => symlink(&file, path)?,
            }
        }
        self.archive(&lib.join("libioexnode.a"))?;
        // From its own place, so that the folder may be moved, as into an image.
        let text = format!(
            "prefix=${{pcfiledir}}/../..\nlibdir=${{prefix}}/lib\nincludedir=${{prefix}}/include\n\n\
             Name: ioexnode\nDescription: The Peer Node SDK of ioeX\nVersion: {}\n\
             Cflags: -I${{includedir}}\nLibs: -L${{libdir}} -lioexnode\nLibs.private: {}\n",
            self.version,
            SYSTEM_LIBRARIES.join(" ")
        );
        fs::write(pkgconfig.join("ioexnode.pc"), text)
    }

    /// The archive with all names hidden that are not its own: firmware may have a zstd of its own beside it.
    fn archive(&self, to: &Path) -> io::Result<()> {
        let listed = self.run("nm", |nm| {
            nm.args(["--defined-only", "--extern-only", "--format=posix"]).arg(self.archive);
        })?;
        let mut public: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.split(' ').next())
            .filter(|name| name.starts_with(PUBLIC))
            .collect();
        public.sort_unstable();
        public.dedup();
        let (whole, hidden) = (to.with_extension("whole.o"), to.with_extension("o"));
        // What nothing of these leads to is left out.
        let roots = public.iter().flat_map(|name| ["-u", name]);
        let linked = |ld: &mut Command| {
            ld.args(["-r", "--gc-sections"]).args(roots).arg("-o").arg(&whole).arg(self.archive);
        };
        self.run("ld", linked)?;
        // The standard library comes with its own source for another optimiser, at which `ar` may stumble.
        let keep = public.iter().map(|name| format!("--keep-global-symbol={name}"));
        let hide = |objcopy: &mut Command| {
            objcopy.args(["--strip-debug", "--remove-section=.llvmbc", "--remove-section=.llvmcmd"]);
            objcopy.args(keep).arg(&whole).arg(&hidden);
        };
        self.run("objcopy", hide)?;
        let _ = fs::remove_file(to);
        let made = self.run("ar", |ar| {
            ar.arg("rcs").arg(to).arg(&hidden);
        });
        for left in [whole, hidden] {
            fs::remove_file(left)?;
        }
        made.map(drop)
    }

    /// Runs a tool, and returns what it printed.
    fn run(&self, tool: &str, arguments: impl FnOnce(&mut Command)) -> io::Result<String> {
        let name = format!("{}{tool}", self.tools);
        let mut command = Command::new(&name);
        arguments(&mut command);
        let output = command.output().map_err(|e| io::Error::other(format!("cannot run `{name}`: {e}")))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("`{name}` failed: {words}")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
