//! The first frame of a stream, from anybody.

#![no_main]

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use ioex_base::wire;
use ioex_net::{
    frame,
    proto::{OPEN_MAX_BYTES, Open},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(open) = wire::decode::<Open>(data, OPEN_MAX_BYTES) {
        assert_eq!(wire::decode(&wire::encode(&open), OPEN_MAX_BYTES), Ok(open));
    }
    // The same with a length in front that may lie. Bytes in memory are always ready.
    let mut from = data;
    let read = pin!(frame::read::<Open>(&mut from, OPEN_MAX_BYTES));
    assert!(matches!(read.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_)));
});
