//! A line of JSON on the local API's socket, in both directions.

#![no_main]

use ioex_api::{Reply, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let line = serde_json::to_vec(&request).unwrap();
        let again: Request = serde_json::from_slice(&line).unwrap();
        assert_eq!(serde_json::to_vec(&again).unwrap(), line);
    }
    if let Ok(reply) = serde_json::from_slice::<Reply>(data) {
        let line = serde_json::to_vec(&reply).unwrap();
        serde_json::from_slice::<Reply>(&line).unwrap();
    }
});
