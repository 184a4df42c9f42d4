//! The slot state on a device whose disk says anything, and what it remembers of its channel.

#![no_main]

use std::io;

use ioex_fuzz::patched;
use ioex_ota::{
    Trust, Version,
    install::{Medium, Pair, STATE_BYTES, SlotPair},
};
use libfuzzer_sys::fuzz_target;

#[derive(Clone, Debug)]
struct Memory(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

impl Memory {
    fn new(length: usize) -> Self {
        Self(std::rc::Rc::new(std::cell::RefCell::new(vec![0; length])))
    }
}

impl Medium for Memory {
    fn capacity(&self) -> io::Result<u64> {
        Ok(self.0.borrow().len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = self.0.borrow();
        into.copy_from_slice(bytes.get(from..from + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let mut all = self.0.borrow_mut();
        all.get_mut(from..from + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let _ = Trust::from_bytes(data);
    let state = Memory::new(STATE_BYTES as usize);
    let slots = || vec![SlotPair { name: "boot".to_owned(), media: [Memory::new(64), Memory::new(64)] }];
    if Pair::format(state.clone(), slots(), Version([1, 0, 0, 0])).is_err() {
        return;
    }
    let changed = patched(&state.0.borrow(), data);
    let length = changed.len();
    state.0.borrow_mut()[..length].copy_from_slice(&changed);
    if let Ok(mut pair) = Pair::open(state, slots()) {
        let _ = pair.boot();
    }
});
