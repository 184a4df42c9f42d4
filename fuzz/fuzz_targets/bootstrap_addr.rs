//! An entry of a seed list, and the relay's URL that follows from it.

#![no_main]

use ioex_fuzz::signer;
use ioex_net::names::BootstrapAddr;
use libfuzzer_sys::fuzz_target;

fn check(text: &str) {
    let Ok(parsed) = text.parse::<BootstrapAddr>() else { return };
    assert_eq!(parsed.to_string().parse::<BootstrapAddr>().as_ref(), Ok(&parsed));
    let named = BootstrapAddr::from_relay_url(&parsed.relay_url()).unwrap();
    assert_eq!(
        (named.uid, named.addr.ip(), named.addr.port()),
        (parsed.uid, parsed.addr.ip(), parsed.addr.port())
    );
    assert!(named.dht().port() > named.addr.port() && named.node().port() > named.dht().port());
}

fuzz_target!(|text: &str| {
    check(text);
    check(&format!("{}@{text}", signer().uid()));
});
