//! The tills of this provider ([`ioex_ota::tills`]), kept through its restarts.
//!
//! The file has an [`Event`] in each line. It is written before a guest hears that it is in, and not forced to the
//! disk: that would be a write for each guest of a device with flash memory. A power cut may lose the last lines; a
//! voucher that was used just before opens a till again then, on whose last receipt it goes on, and its requester can take 16 MiB once
//! more.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use ioex_base::{
    ContentAddress, Uid, UnixSeconds,
    receipt::{Address, ReceiptKey, SignedReceipt},
};
use ioex_ota::{
    tills::{Allowed, Event, SettleError, Tills, VoucherName, Withheld},
    voucher::{Voucher, VoucherError},
};

use super::receipts::{DOMAIN, Receipts, Side};
use crate::node::{files, lock};

/// Lines that the file has beyond twice as many as needed before it is written anew.
const SPARE_LINES: usize = 1_000;

struct Log {
    path: PathBuf,
    file: File,
    lines: usize,
}

fn lines(events: &[Event]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for event in events {
        text.extend(serde_json::to_vec(event)?);
        text.push(b'\n');
    }
    Ok(text)
}

/// All of them. The book alone is locked where the door asks; who writes takes the log's lock first.
pub(super) struct Counter {
    book: Mutex<Tills>,
    log: Mutex<Log>,
    allowance: Mutex<Allowance>,
}

/// Bytes that go out to others, beside the owner's cap.
struct Allowance {
    /// Since the start.
    spent: u64,
    /// How many of them the month's sum has.
    counted: u64,
    /// To where `spent` may grow.
    until: u64,
}

impl Counter {
    /// Opens what is on disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn open(path: &Path, now: UnixSeconds) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let mut book = Tills::default();
        for line in BufReader::new(File::open(path)?).split(b'\n') {
            // A last line that a crash cut was told to nobody.
            if let Ok(event) = serde_json::from_slice(&line?) {
                book.replay(event, now);
            }
        }
        book.forget(now);
        let log = Log { path: path.to_owned(), file, lines: 0 };
        let allowance = Allowance { spent: 0, counted: 0, until: u64::MAX };
        let counter = Self { book: Mutex::new(book), log: Mutex::new(log), allowance: Mutex::new(allowance) };
        counter.write_anew(&mut lock(&counter.log))?;
        Ok(counter)
    }

    fn book(&self) -> MutexGuard<'_, Tills> {
        lock(&self.book)
    }

    fn write_anew(&self, log: &mut Log) -> io::Result<()> {
        let events: Vec<Event> = self.book().events().collect();
        files::replace(&log.path, &lines(&events)?)?;
        log.file = File::options().append(true).open(&log.path)?;
        log.lines = events.len();
        Ok(())
    }

    /// Keeps what changed. A disk that fails does not end the exchange: single use then holds until the next start.
    fn keep(&self, log: &mut Log, events: &[Event]) {
        let mut write = || {
            log.file.write_all(&lines(events)?)?;
            log.lines += events.len();
            let needed = self.book().len();
            if log.lines > 2 * needed + SPARE_LINES { self.write_anew(log) } else { Ok(()) }
        };
        if let Err(e) = write() {
            tracing::warn!("which vouchers were used cannot be kept: {e}");
        }
    }

    /// Whether a checked voucher opens a till or has an open one. Answered from memory.
    pub(super) fn admits(&self, issuer: &Uid, voucher: &Voucher) -> bool {
        self.book().admits(issuer, voucher).is_ok()
    }

    /// A guest came with a checked voucher; `account` is the one with which it signs, if it signs.
    ///
    /// # Errors
    /// [`VoucherError::Used`], [`VoucherError::Busy`].
    pub(super) fn came(
        &self,
        issuer: &Uid,
        voucher: &Voucher,
        account: Option<Address>,
        receipts: &Receipts,
        now: UnixSeconds,
    ) -> Result<(), VoucherError> {
        let mut log = lock(&self.log);
        let before = receipts.last(Side::Provider, voucher);
        let events = {
            let mut book = self.book();
            let events = book.open(issuer, voucher, now)?;
            if let Some(account) = account {
                book.count(voucher, DOMAIN, account, before);
            }
            events
        };
        self.keep(&mut log, &events);
        Ok(())
    }

    /// A guest came with a pass: nothing is counted from now on.
    pub(super) fn came_free(&self, guest: &Uid, manifest: &ContentAddress) {
        let mut log = lock(&self.log);
        let event = self.book().close(&(*guest, *manifest));
        self.keep(&mut log, event.as_slice());
    }

    /// A guest went. Answered from memory.
    pub(super) fn went(&self, guest: &Uid, manifest: &ContentAddress) {
        self.book().away(&(*guest, *manifest));
    }

    /// What a guest may ask for. Answered from memory.
    ///
    /// # Errors
    /// [`Withheld`].
    pub(super) fn allows(&self, guest: &Uid, manifest: &ContentAddress) -> Result<Allowed, Withheld> {
        self.book().allows(&(*guest, *manifest))
    }

    /// A shard of `bytes` bytes went out whole. Answered from memory.
    pub(super) fn sent(&self, guest: &Uid, manifest: &ContentAddress, voucher: &VoucherName, bytes: u32) {
        self.book().sent(&(*guest, *manifest), voucher, bytes);
    }

    /// A guest's receipt; returns it with both signatures.
    ///
    /// # Errors
    /// [`SettleError`].
    pub(super) fn settle(
        &self,
        guest: &Uid,
        signed: SignedReceipt,
        key: &ReceiptKey,
    ) -> Result<SignedReceipt, SettleError> {
        let mut log = lock(&self.log);
        let about = (*guest, signed.receipt.manifest);
        let (both, event) = self.book().settle(&about, signed, key)?;
        self.keep(&mut log, event.as_slice());
        Ok(both)
    }

    /// How many bytes may go out beside those that were counted.
    pub(super) fn allow(&self, bytes: u64) {
        let mut allowance = lock(&self.allowance);
        allowance.until = allowance.counted.saturating_add(bytes);
    }

    /// Takes so many of them, if they are left.
    pub(super) fn spend(&self, bytes: u32) -> bool {
        let mut allowance = lock(&self.allowance);
        let spent = allowance.spent.saturating_add(bytes.into());
        let left = spent <= allowance.until;
        if left {
            allowance.spent = spent;
        }
        left
    }

    /// What was taken and not counted yet; it is counted from now on.
    pub(super) fn take_spent(&self) -> u64 {
        let mut allowance = lock(&self.allowance);
        let more = allowance.spent - allowance.counted;
        allowance.counted = allowance.spent;
        more
    }

    /// Forgets what ended.
    pub(super) fn sweep(&self, now: UnixSeconds) {
        self.book().forget(now);
    }
}
