//! A file and a folder that change places with their successors, on a real file system.

use std::{fs, path::Path};

use ioex_ota::{
    Image, Release,
    install::{InstallError, Swap, TRIAL_STARTS, tree_digest},
};

use crate::fleet::{device, release, version};

fn put(swap: &mut Swap, release: &Release, bytes: &[u8]) {
    let mut writer = swap.begin(release, &device("1.0")).unwrap();
    writer.write(bytes).unwrap();
    writer.finish(true).unwrap();
}

#[test]
fn a_file_changes_places_is_tried_and_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("app");
    fs::write(&target, "one").unwrap();
    let mut swap = Swap::open(&target, version("1.0")).unwrap();
    let (next, _) = release("2.0", b"second");
    put(&mut swap, &next, b"second");
    assert_eq!(fs::read(&target).unwrap(), b"one", "until it is activated");
    swap.activate().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"second");
    swap.start().unwrap();
    swap.confirm().unwrap();
    let swap = Swap::open(&target, version("1.0")).unwrap();
    assert_eq!(swap.version(), version("2.0"));
    assert!(!swap.new_path().exists());
}

#[test]
fn a_file_that_does_not_start_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("app");
    fs::write(&target, "one").unwrap();
    let mut swap = Swap::open(&target, version("1.0")).unwrap();
    let (next, _) = release("2.0", b"second");
    put(&mut swap, &next, b"second");
    swap.activate().unwrap();
    for _ in 0..TRIAL_STARTS {
        Swap::open(&target, version("1.0")).unwrap().start().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"second");
    }
    let mut swap = Swap::open(&target, version("1.0")).unwrap();
    swap.start().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"one");
    assert_eq!(swap.version(), version("1.0"));
    let again = swap.begin(&next, &device("1.0")).err();
    assert!(matches!(again, Some(InstallError::FailedBefore(_))), "{again:?}");
}

/// The cut between noting that they change places and their doing so.
#[test]
fn what_a_cut_left_half_done_is_done_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("app");
    fs::write(&target, "one").unwrap();
    let mut swap = Swap::open(&target, version("1.0")).unwrap();
    let (next, _) = release("2.0", b"second");
    put(&mut swap, &next, b"second");
    swap.activate().unwrap();
    let new = swap.new_path();
    let exchange = |a: &Path, b: &Path| {
        let between = dir.path().join("between");
        fs::rename(a, &between).unwrap();
        fs::rename(b, a).unwrap();
        fs::rename(&between, b).unwrap();
    };
    exchange(&target, &new);
    assert_eq!(fs::read(&target).unwrap(), b"one");
    let mut swap = Swap::open(&target, version("1.0")).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"second");
    assert!(swap.on_trial());
    swap.roll_back().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"one");
}

#[test]
fn a_file_goes_on_where_it_was_and_a_wrong_one_is_fetched_anew() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("app");
    let (next, _) = release("2.0", b"second");
    let mut swap = Swap::open(&target, version("1.0")).unwrap();
    let mut writer = swap.begin(&next, &device("1.0")).unwrap();
    writer.write(b"sec").unwrap();
    writer.checkpoint().unwrap();
    let mut swap = Swap::open(&target, version("1.0")).unwrap();
    let mut writer = swap.begin(&next, &device("1.0")).unwrap();
    assert_eq!(writer.at(), 3);
    writer.write(b"OND").unwrap();
    let wrong = writer.finish(false);
    assert!(matches!(wrong, Err(InstallError::Content { .. })), "{wrong:?}");
    assert!(matches!(swap.activate(), Err(InstallError::NotReady)));
    put(&mut swap, &next, b"second");
    swap.activate().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"second");
    swap.roll_back().unwrap();
    assert!(!target.exists(), "there was nothing before");
}

#[test]
fn a_folder_changes_places_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let fill = |path: &Path, text: &str| {
        fs::create_dir_all(path.join("bin")).unwrap();
        fs::write(path.join("bin/app"), text).unwrap();
        std::os::unix::fs::symlink("bin/app", path.join("run")).unwrap();
    };
    let (target, model) = (dir.path().join("app"), dir.path().join("model"));
    fill(&target, "one");
    fill(&model, "second");
    let hash = tree_digest(&model).unwrap();
    assert_ne!(hash, tree_digest(&target).unwrap());
    let image = Image { name: "app".to_owned(), length: 6, hash };
    let next = Release { images: vec![image], ..release("2.0", b"").0 };
    let mut swap = Swap::open(&target, version("1.0")).unwrap();
    let new = swap.new_path();
    let writer = swap.begin(&next, &device("1.0")).unwrap();
    fill(&new, "SECOND");
    assert!(matches!(writer.finish(false), Err(InstallError::Content { .. })));
    let writer = swap.begin(&next, &device("1.0")).unwrap();
    fill(&new, "second");
    writer.finish(false).unwrap();
    swap.activate().unwrap();
    assert_eq!(fs::read(target.join("run")).unwrap(), b"second");
    swap.roll_back().unwrap();
    assert_eq!(fs::read(target.join("run")).unwrap(), b"one");
}
