//! A node's record from the directory: raw, and with any value that its node signed.

#![no_main]

use ioex_base::wire;
use ioex_fuzz::{NOW, signer};
use ioex_net::record::SignedRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(signed) = wire::decode::<SignedRecord>(data, 4_096) {
        let _ = signed.open(&signed.uid, NOW);
    }
    let (key, seq_ms) = (signer(), NOW.0 * 1_000);
    let mut message = format!("4:salt9:ioex-node3:seqi{seq_ms}e1:v{}:", data.len()).into_bytes();
    message.extend_from_slice(data);
    let signature = key.sign(&message);
    let signed = SignedRecord { uid: key.uid(), seq_ms, value: data.to_vec(), signature };
    if let Ok(record) = signed.open(&key.uid(), NOW) {
        let again = record.clone().sign(&key, seq_ms);
        assert_eq!(again.open(&key.uid(), NOW), Ok(record));
    }
});
