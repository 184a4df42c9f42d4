//! A file and a folder that change places with their successors, on a disk that loses power at every change.

mod disk;

use std::{io, path::Path};

use ioex_ota::{
    Image, Release, Version,
    install::{Files as _, InstallError, Medium as _, Swap, tree_digest},
};

use self::disk::{Cache, Disk};
use crate::fleet::{device, release, version};

const TARGET: &str = "/opt/app";
const WRITE_BYTES: usize = 96;
const CHECKPOINT_WRITES: usize = 2;
/// Files of a folder, with their modes.
const FILES: [(&str, u32); 2] = [("bin", 0o750), ("deep/data", 0o444)];
const LINK: (&str, &str) = ("run", "bin");
const VERSIONS: [&str; 3] = ["1.0", "2.0", "3.0"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    File,
    Folder,
}

fn content(number: &str, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; 500];
    blake3::Hasher::new().update(number.as_bytes()).update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Puts a version somewhere, as a factory or an unpacker does.
fn put(disk: &Disk, what: What, at: &Path, number: &str) -> io::Result<()> {
    let write = |path: &Path, name: &str, mode| {
        disk.create(path, 0)?.write_at(0, &content(number, name))?;
        disk.set_mode(path, mode)
    };
    if what == What::File {
        return write(at, "", 0o755);
    }
    if disk.look(at)?.is_some() {
        disk.remove(at)?;
    }
    disk.make_folder(&at.join("deep"))?;
    for (name, mode) in FILES {
        write(&at.join(name), name, mode)?;
    }
    disk.link(&at.join(LINK.0), Path::new(LINK.1))
}

fn is_whole(disk: &Disk, what: What, number: &str) -> bool {
    let model = Disk::new();
    model.make_folder(Path::new("/opt")).unwrap();
    put(&model, what, Path::new(TARGET), number).unwrap();
    disk.tree(Path::new(TARGET)) == model.tree(Path::new(TARGET))
}

/// What lies at the target, when it is one whole version.
fn whole(disk: &Disk, what: What) -> Option<Version> {
    VERSIONS.into_iter().find(|number| is_whole(disk, what, number)).map(version)
}

fn next(what: What, number: &str) -> Release {
    let hash = match what {
        What::File => blake3::hash(&content(number, "")).into(),
        What::Folder => {
            // The maker's side has a real folder.
            let model = tempfile::tempdir().unwrap();
            std::fs::create_dir(model.path().join("deep")).unwrap();
            for (name, mode) in FILES {
                let path = model.path().join(name);
                std::fs::write(&path, content(number, name)).unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
                std::fs::set_permissions(path, mode).unwrap();
            }
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(model.path().join("deep"), mode).unwrap();
            std::os::unix::fs::symlink(LINK.1, model.path().join(LINK.0)).unwrap();
            tree_digest(model.path()).unwrap()
        }
    };
    let image = Image { name: "app".to_owned(), length: content(number, "").len() as u64, hash };
    Release { images: vec![image], ..release(number, b"").0 }
}

struct Box {
    what: What,
    disk: Disk,
}

/// Releases are made once: every cut uses the same ones.
struct Maker {
    second: Release,
    third: Release,
}

impl Maker {
    fn new(what: What) -> Self {
        Self { second: next(what, "2.0"), third: next(what, "3.0") }
    }
}

impl Box {
    /// From the factory with version 1.0.
    fn new(what: What) -> Self {
        let disk = Disk::new();
        disk.make_folder(Path::new("/opt")).unwrap();
        put(&disk, what, Path::new(TARGET), "1.0").unwrap();
        disk.settle();
        disk.used();
        Self { what, disk }
    }

    fn open(&self) -> Result<Swap<Disk>, InstallError> {
        Swap::open_on(self.disk.clone(), Path::new(TARGET), version("1.0"))
    }

    /// Brings a version until it is ready.
    fn bring(&self, swap: &mut Swap<Disk>, release: &Release) -> Result<(), InstallError> {
        let is = |number: &&str| version(number) == release.version;
        let number = VERSIONS.into_iter().find(is).unwrap();
        let new = swap.new_path();
        let installed = swap.version().to_string();
        let mut writer = swap.begin(release, &device(&installed))?;
        if self.what == What::Folder {
            let unpacked = put(&self.disk, self.what, &new, number);
            unpacked.map_err(|error| InstallError::Io { what: "unpacking", error })?;
        } else {
            let bytes = content(number, "");
            for (n, part) in bytes[usize::try_from(writer.at()).unwrap()..].chunks(WRITE_BYTES).enumerate() {
                writer.write(part)?;
                if n % CHECKPOINT_WRITES == 1 {
                    writer.checkpoint()?;
                }
            }
        }
        writer.finish(true)
    }

    fn install(&self, swap: &mut Swap<Disk>, release: &Release) -> Result<(), InstallError> {
        self.bring(swap, release)?;
        swap.activate()?;
        swap.start()
    }
}

/// A whole life: an update that is ready and given up for another one, a healthy trial of that, and an unhealthy
/// trial.
fn life(of: &Box, maker: &Maker) -> Result<(), InstallError> {
    let mut swap = of.open()?;
    of.bring(&mut swap, &maker.third)?;
    of.install(&mut swap, &maker.second)?;
    swap.confirm()?;
    of.install(&mut swap, &maker.third)?;
    swap.roll_back()
}

/// Whatever was cut off, something whole lies at the target, before and after what a start does; the state says which
/// it is; and the update can be completed from there.
fn recovers(cut: &Box, maker: &Maker, context: &str) {
    let lies = whole(&cut.disk, cut.what);
    assert!(lies.is_some(), "{context}: what lies at the target is not whole");
    let mut swap = cut.open().unwrap_or_else(|error| panic!("{context}: {error}"));
    swap.start().unwrap();
    let runs = whole(&cut.disk, cut.what);
    assert_eq!(runs, Some(swap.running()), "{context}: after the start");
    // What is said to be ready is.
    if swap.activate().is_ok() {
        assert_eq!(whole(&cut.disk, cut.what), Some(swap.running()), "{context}: activated");
    }
    if swap.on_trial() {
        swap.confirm().unwrap();
    }
    if swap.version() < version("2.0") {
        cut.install(&mut swap, &maker.second).unwrap_or_else(|error| panic!("{context}: {error}"));
        swap.confirm().unwrap();
        assert_eq!(whole(&cut.disk, cut.what), Some(version("2.0")), "{context}: completed");
    }
    let again = cut.open().unwrap().version();
    assert_eq!(whole(&cut.disk, cut.what), Some(again), "{context}: the start after it");
}

fn cuts(what: What) {
    let maker = Maker::new(what);
    let uncut = Box::new(what);
    life(&uncut, &maker).unwrap();
    assert_eq!(whole(&uncut.disk, what), Some(version("2.0")));
    let changes = uncut.disk.used();
    assert!(changes > 40, "{changes}");
    for cache in [Cache::Kept, Cache::Lost, Cache::Half] {
        for left in 1..=changes {
            let cut = Box::new(what);
            cut.disk.cut_at(left);
            life(&cut, &maker).unwrap_err();
            cut.disk.power_returns(cache);
            recovers(&cut, &maker, &format!("{what:?} cut at {left} of {changes}, {cache:?}"));
        }
    }
}

#[test]
fn a_file_is_whole_after_a_cut_at_every_change() {
    cuts(What::File);
}

#[test]
fn a_folder_is_whole_after_a_cut_at_every_change() {
    cuts(What::Folder);
}
