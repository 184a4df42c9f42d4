//! Vouchers, passes and orders: raw, and with any body that the matcher or the maker signed.

#![no_main]

use ioex_base::{ContentAddress, Sealed, Uid};
use ioex_fuzz::{NOW, sealed, signer};
use ioex_ota::{matcher::Order, pass::Pass, tills::Tills, voucher::Voucher};
use libfuzzer_sys::fuzz_target;

fn all(bytes: &[u8]) {
    let (me, other) = (signer().uid(), Uid::from_bytes([2; 32]));
    if let Ok(voucher) = Voucher::check(bytes, &me, &other, &other, NOW) {
        assert_eq!((voucher.requester, voucher.provider), (other, other));
        let mut tills = Tills::default();
        if tills.open(&me, &voucher, NOW).is_ok() {
            let allowed = tills.allows(&(voucher.requester, voucher.manifest));
            assert!(allowed.is_ok_and(|allowed| allowed.shards.start == voucher.first_shard));
        }
    }
    let _ = Voucher::unseal(bytes, &me);
    let _ = Pass::check(bytes, &me, &other, &ContentAddress::of(b""), NOW);
    let _ = Order::unseal(bytes, &me);
}

fuzz_target!(|data: &[u8]| {
    all(data);
    all(&sealed(Voucher::CONTEXT, Voucher::VERSION, data));
    all(&sealed(Pass::CONTEXT, Pass::VERSION, data));
    all(&sealed(Order::CONTEXT, Order::VERSION, data));
});
