use std::{
    collections::HashMap,
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{StorageBackend, backends::FileBackend};

use super::*;

/// Which files lie on a full disk, by path.
static DISKS: LazyLock<Mutex<HashMap<PathBuf, Arc<AtomicBool>>>> = LazyLock::new(Mutex::default);

/// A file on a disk that takes nothing while it is full.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn open(path: &Path) -> Result<Database, StateError> {
        let full = DISKS.lock().unwrap().entry(path.to_owned()).or_default().clone();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Database::builder().create_with_backend(Self { file: FileBackend::new(file)?, full })?)
    }

    fn room(&self) -> std::io::Result<()> {
        if self.full.load(Ordering::SeqCst) { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.room()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.room()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.room()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> std::io::Result<()> {
        self.file.close()
    }
}

#[test]
fn values_survive_and_only_the_owner_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    {
        let state = State::open(&path).unwrap();
        state.put(FRIENDS, b"b", &2u32).unwrap();
        state.put(FRIENDS, b"a", &1u32).unwrap();
        state.put(FRIENDS, b"c", &3u32).unwrap();
        state.remove(FRIENDS, b"c").unwrap();
        assert!(matches!(State::open(&path), Err(StateError::Open(_))), "one process at a time");
    }
    let state = State::open(&path).unwrap();
    let all: Vec<(Vec<u8>, u32)> = state.all(FRIENDS).unwrap();
    assert_eq!(all, [(b"a".to_vec(), 1), (b"b".to_vec(), 2)]);
    assert_eq!(state.get::<u32>(FRIENDS, b"c").unwrap(), None);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    state.close();
    assert!(matches!(state.put(FRIENDS, b"d", &4u32), Err(StateError::Closed)));
    drop(State::open(&path).unwrap());
    assert!(matches!(state.get::<u32>(FRIENDS, b"a"), Err(StateError::Closed)), "closed it stays");
}

#[test]
fn a_newer_format_is_named() {
    assert!(matches!(decode::<u32>(&[9, 1]), Err(StateError::Version(9))));
    assert!(matches!(decode::<u32>(&[]), Err(StateError::Version(0))));
    assert!(matches!(decode::<u32>(&[1]), Err(StateError::Damaged(_))));
}

#[test]
fn after_a_full_disk_it_takes_things_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let state = State::open_with(&path, Disk::open).unwrap();
    let full = DISKS.lock().unwrap()[&path].clone();
    state.put(MESSAGES, b"before", &1u32).unwrap();
    full.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        // More than the file has room for.
        let refused = state.put(MESSAGES, b"lost", &vec![7u8; 300_000]);
        assert!(refused.is_err());
    }
    full.store(false, Ordering::SeqCst);
    assert_eq!(state.get::<u32>(MESSAGES, b"before").unwrap(), Some(1));
    assert_eq!(state.get::<Vec<u8>>(MESSAGES, b"lost").unwrap(), None, "half of it is nothing");
    assert!(state.put_new(MESSAGES, b"after", &2u32).unwrap());
    assert_eq!(state.get::<u32>(MESSAGES, b"after").unwrap(), Some(2));
    // Shut down while the file is lost, it stays shut.
    full.store(true, Ordering::SeqCst);
    state.put(MESSAGES, b"lost", &vec![7u8; 300_000]).unwrap_err();
    state.close();
    full.store(false, Ordering::SeqCst);
    assert!(matches!(state.get::<u32>(MESSAGES, b"before"), Err(StateError::Closed)));
}

thread_local! {
    /// How many more changes of a file go through before the power is gone.
    static CHANGES_LEFT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A disk that is cut off.
#[derive(Debug)]
struct Cut(FileBackend);

impl Cut {
    fn open(path: &Path) -> Result<Database, StateError> {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Database::builder().create_with_backend(Self(FileBackend::new(file)?))?)
    }

    fn power(&self) -> std::io::Result<()> {
        let left = CHANGES_LEFT.get();
        CHANGES_LEFT.set(left.saturating_sub(1));
        if left == 0 { Err(ErrorKind::Other.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Cut {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.power()?;
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.power()?;
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.power()?;
        self.0.write(offset, data)
    }
}

#[test]
fn a_node_that_was_killed_while_it_made_its_state_starts_again() {
    let mut cuts = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.redb");
        CHANGES_LEFT.set(cuts);
        let made = State::open_with(&path, Cut::open).is_ok();
        let state = State::open(&path).unwrap_or_else(|e| panic!("after {cuts} changes: {e}"));
        state.put(SINGLES, b"key", &1_u8).unwrap();
        drop(state);
        assert_eq!(State::open(&path).unwrap().get::<u8>(SINGLES, b"key").unwrap(), Some(1));
        if made {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 5, "only {cuts} cuts");
}
