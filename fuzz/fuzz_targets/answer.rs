//! The answers to a stream's first frame, from whoever was asked.

#![no_main]

use std::fmt::Debug;

use ioex_base::wire;
use ioex_net::proto::{
    ANSWER_MAX_BYTES, Answer, AuditAnswer, Capacity, Content, DirectoryAnswer, HeadAnswer, HeadStart, Hello,
    PairAnswer, PlaceAnswer,
};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fn round<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    if let Ok(answer) = wire::decode::<Answer<T>>(data, ANSWER_MAX_BYTES) {
        // The varints that came may be longer than they need be, so the bytes may differ.
        assert_eq!(wire::decode(&wire::encode(&answer), ANSWER_MAX_BYTES), Ok(answer));
    }
}

fuzz_target!(|data: &[u8]| {
    round::<DirectoryAnswer>(data);
    round::<Content>(data);
    round::<Hello>(data);
    round::<Capacity>(data);
    round::<PlaceAnswer>(data);
    round::<PairAnswer>(data);
    round::<AuditAnswer>(data);
    round::<HeadStart>(data);
    round::<HeadAnswer>(data);
    round::<Vec<bool>>(data);
    round::<u32>(data);
    round::<[u8; 32]>(data);
    round::<()>(data);
});
